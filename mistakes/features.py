"""Features and logits of images, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mistakes.artifacts import Array
from mistakes.classifier import Classifier, to_unit
from mistakes.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Features float32 (n, d) and logits float32 (n, k) of some images."""

    features: Array
    logits: Array


class Extractor:
    """A classifier that also gives the output of one of its layers."""

    def __init__(self, model: Classifier, layer: str, device: torch.device) -> None:
        """``layer`` : ``penultimate`` or a node of the network's graph as torchvision names it.

        Raises InputError naming the layers there are.
        """
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        nodes = get_graph_node_names(model.eval())[1]
        node = model.penultimate if layer == "penultimate" else layer
        if node not in nodes:
            raise InputError("params.yaml", "features.layer", layer, f"penultimate or one of {', '.join(nodes)}")
        wanted = {node: "features"} | ({nodes[-1]: "logits"} if node != nodes[-1] else {})
        self._same = node == nodes[-1]
        self._network = create_feature_extractor(model, wanted).to(device, memory_format=torch.channels_last).eval()
        self._device = device

    def tensors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, d) and logits (n, k) of images (n, c, h, w) in [0, 1]; differentiable."""
        outputs = self._network(x)
        z = outputs["features"]
        z = z.flatten(2).mean(2) if z.dim() > 2 else z
        return z, z if self._same else outputs["logits"]

    @torch.no_grad()
    def batches(self, images: Array, batch_size: int) -> Iterator[Batch]:
        """Yield features and logits of uint8 images (n, c, h, w), in order.

        Feature maps (n, c, h, w) are averaged over space. Raises InputError where a feature is NaN or infinite.
        """
        for start in range(0, len(images), batch_size):
            z, logits = self.tensors(to_unit(images[start : start + batch_size], self._device))
            finite = torch.isfinite(z).all(1)
            if not finite.all():
                row = start + int(finite.int().argmin())
                raise InputError("classifier", f"features of image {row}", "NaN or infinite", "finite numbers")
            yield Batch(z.cpu().numpy(), logits.cpu().numpy())

    def whole(self, images: Array, batch_size: int) -> Batch:
        """Return features and logits of all images at once."""
        parts = list(self.batches(images, batch_size))
        return Batch(np.concatenate([p.features for p in parts]), np.concatenate([p.logits for p in parts]))
