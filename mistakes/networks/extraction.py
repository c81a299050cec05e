"""Features, early features and logits of images, batch by batch."""

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
    device: torch.device,
) -> Callable[[Path], Batch]:
    """Return what gives the outputs of the set in a folder: of its images, or without a model those
    that it holds.
    """
    if model is None:
        return features.load
    extractor = Extractor(model, layer, early, device)
    return lambda folder: extractor.whole(load_arrays(folder, "images")[0], batch_size)


class Extractor:
    """A classifier that also gives the output of some of its layers."""

    def __init__(
        self, model: Model, layer: str, early: Sequence[str] | None, device: torch.device
    ) -> None:
        """Look up the layers, as module layers names them.

        layer : of the features, or ``penultimate``. early : of the early features; None: the
        classifier's blocks. Raises InputError naming the layers there are.
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
        self._device = device

    def tensors(self, x: Tensor) -> Outputs:
        """Return the outputs of images (n, c, h, w) in [0, 1]; differentiable.

        features : maps (n, c, h, w) are averaged over space; of tokens (n, tokens, c) it is the
        first or the mean. early : of maps and tokens, mean and deviation of each channel over space
        (n, 2c), so that a pattern that is odd anywhere shows; of anything else, the values
        themselves.
        """
        found, layout = self._network(x), self._layout
        z = layers.vector(found[self._node], self._node, layout)
        early = tuple(
            _moments(layers.channels_first(found[block], block, layout)) for block in self._blocks
        )
        return Outputs(z, found[self._logits], early)

    @torch.no_grad()
    def batches(self, images: Array, batch_size: int) -> Iterator[Batch]:
        """Yield the outputs of uint8 images (n, c, h, w), in order; raises InputError where one is
        NaN or infinite.
        """
        for start in progress.bar(range(0, len(images), batch_size), "batches of images"):
            outputs = self.tensors(to_unit(images[start : start + batch_size], self._device))
            for part in (outputs.features, outputs.logits, *outputs.early):
                finite = torch.isfinite(part).all(1)
                if not finite.all():
                    row = start + int(finite.int().argmin())
                    raise InputError(
                        "classifier",
                        f"features of image {row}",
                        "NaN or infinite",
                        "finite numbers",
                    )
            early = tuple(part.float().cpu().numpy() for part in outputs.early)
            yield Batch(
                outputs.features.float().cpu().numpy(), outputs.logits.float().cpu().numpy(), early
            )

    def whole(self, images: Array, batch_size: int) -> Batch:
        """Return the outputs of all images at once."""
        parts = list(self.batches(images, batch_size))
        early = tuple(
            np.concatenate(blocks) for blocks in zip(*(p.early for p in parts), strict=True)
        )
        return Batch(
            np.concatenate([p.features for p in parts]),
            np.concatenate([p.logits for p in parts]),
            early,
        )


def _moments(maps: Tensor) -> Tensor:
    if maps.dim() < 3:
        return maps
    flat = maps.flatten(2)
    mean = flat.mean(2)
    # a constant channel has no gradient of its deviation, but must not give NaN
    return torch.cat([mean, (flat - mean[:, :, None]).square().mean(2).add(1e-12).sqrt()], dim=1)
