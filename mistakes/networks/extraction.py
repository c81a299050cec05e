"""Features, early features and logits of images, batch by batch."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mistakes import progress
from mistakes.artifacts import Array, load_arrays
from mistakes.data import features
from mistakes.data.features import Batch, Outputs
from mistakes.data.pixels import to_unit
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import layers
from mistakes.networks.architectures import Classifier
from mistakes.networks.models import Model


def batch_loader(
    model: Model | None,
    layer: str,
    early: Sequence[str] | None,
    batch_size: int,
    views: Sequence[str],
    device: torch.device,
) -> Callable[[Path], Batch]:
    """Return what gives the outputs of the set in a folder: of its images, or without a model those
    that it holds.
    """
    if model is None:
        return features.load
    extractor = Extractor(model, layer, early, device, views)
    return lambda folder: extractor.whole(load_arrays(folder, "images")[0], batch_size)


_MOVES = {"left": (3, 1), "right": (3, -1), "up": (2, 1), "down": (2, -1)}  # axis, what is seen


class Extractor:
    """A classifier that also gives the output of some of its layers."""

    def __init__(
        self,
        model: Model,
        layer: str,
        early: Sequence[str] | None,
        device: torch.device,
        views: Sequence[str] = (),
    ) -> None:
        """Look up the layers, as module layers names them.

        layer : of the features, or ``penultimate``. early : of the early features; None: the
        classifier's blocks. views : the looks at an image beside itself, as ``view`` names them.
        Raises ArgumentError naming the layers there are.
        """
        nodes = layers.names(model)
        self._node = model.penultimate if layer == "penultimate" else layer
        self._blocks = tuple(model.blocks if early is None else early)
        self._logits = nodes[-1]
        for key, node in [("layer", self._node), *(("early", block) for block in self._blocks)]:
            if not layers.known(node, nodes):
                expected = f"penultimate or one of {', '.join(nodes)}"
                raise ArgumentError(f"{key}", layer if key == "layer" else node, expected)
        wanted = list(dict.fromkeys([self._node, *self._blocks, self._logits]))
        # own networks get images as torch lays them out: they may use ``view``
        layout = {"memory_format": torch.channels_last} if isinstance(model, Classifier) else {}
        self._network = layers.feature_extractor(model, wanted, device, **layout)
        said = {} if isinstance(model, Classifier) else model.description
        self._layout = said.get("layout", layers.MAPS)
        self._device, self._views = device, tuple(views)

    def tensors(self, x: Tensor) -> Outputs:
        """Return the outputs of images (n, c, h, w) in [0, 1]; differentiable.

        features : maps (n, c, h, w) are averaged over space; of tokens (n, tokens, c) it is the
        first or the mean. early : of maps and tokens, mean and deviation of each channel over space
        (n, 2c), so that a pattern that is odd anywhere shows; of anything else, the values
        themselves. views : the log of the mean of the softmax over the image and its views.
        """
        found, layout = self._network(x), self._layout
        z = layers.vector(found[self._node], self._node, layout)
        early = tuple(
            _moments(layers.channels_first(found[block], block, layout)) for block in self._blocks
        )
        logits = found[self._logits]
        return Outputs(z, logits, early, self._looks(x, logits))

    def _looks(self, x: Tensor, logits: Tensor) -> Tensor | None:
        if not self._views:
            return None
        seen = [self._network(view(x, name))[self._logits] for name in self._views]
        each = torch.stack([one.log_softmax(1) for one in (logits, *seen)])
        return each.logsumexp(0) - math.log(len(each))

    @torch.no_grad()
    def batches(self, images: Array, batch_size: int) -> Iterator[Batch]:
        """Yield the outputs of uint8 images (n, c, h, w), in order; raises InputError where one is
        NaN or infinite.
        """
        for start in progress.bar(range(0, len(images), batch_size), "batches of images"):
            outputs = self.tensors(to_unit(images[start : start + batch_size], self._device))
            looks = () if outputs.views is None else (outputs.views,)
            for part in (outputs.features, outputs.logits, *outputs.early, *looks):
                finite = torch.isfinite(part).all(1)
                if not finite.all():
                    row = start + int(finite.int().argmin())
                    raise InputError(
                        "classifier",
                        f"features of image {row}",
                        "NaN or infinite",
                        "finite numbers",
                    )
            yield Batch(
                _stored(outputs.features),
                _stored(outputs.logits),
                tuple(_stored(part) for part in outputs.early),
                _stored(outputs.views) if outputs.views is not None else None,
            )

    def whole(self, images: Array, batch_size: int) -> Batch:
        """Return the outputs of all images at once."""
        parts = [batch.arrays() for batch in self.batches(images, batch_size)]
        return Batch.of({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})


def view(x: Tensor, name: str) -> Tensor:
    """Return images (n, c, h, w) as a view sees them, of the same shape; differentiable.

    name : ``mirror``, or ``left_N``, ``right_N``, ``up_N`` and ``down_N``: moved by N pixels, the
    edge is repeated.

    Examples
    --------
    >>> x = torch.arange(4.0).reshape(1, 1, 1, 4)
    >>> view(x, "left_1").flatten().tolist(), view(x, "mirror").flatten().tolist()
    ([1.0, 2.0, 3.0, 3.0], [3.0, 2.0, 1.0, 0.0])
    """
    if name == "mirror":
        return x.flip(3)
    direction, pixels = name.split("_")
    axis, step = _MOVES[direction]
    there = torch.arange(x.shape[axis], device=x.device) + step * int(pixels)
    return x.index_select(axis, there.clamp(0, x.shape[axis] - 1))


def _stored(part: Tensor) -> Array:
    found: Array = part.float().cpu().numpy()
    return found


def _moments(maps: Tensor) -> Tensor:
    if maps.dim() < 3:
        return maps
    flat = maps.flatten(2)
    mean = flat.mean(2)
    # a constant channel has no gradient of its deviation, but must not give NaN
    return torch.cat([mean, (flat - mean[:, :, None]).square().mean(2).add(1e-12).sqrt()], dim=1)
