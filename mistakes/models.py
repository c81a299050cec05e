"""Any classifier from its file: one that was trained here, or an own one."""

from pathlib import Path

import torch

from mistakes import classifier, own
from mistakes.artifacts import Array, load_tensors

Model = classifier.Classifier | own.Own
NO_GRADIENT = "the logits of this classifier have no gradient, along which attacks descend"


def load(path: Path) -> Model:
    """Rebuild what stage classifier wrote, in evaluation mode. Raises InputError where the file is corrupt."""
    tensors, description = load_tensors(path)
    return own.rebuild(tensors, description, path) if "source" in description else classifier.load(path)


def differentiable(model: Model, images: Array, device: torch.device) -> bool:
    """Say whether the logits of uint8 images (n, c, h, w) have a gradient; only the first image is tried."""
    x = classifier.to_unit(images[:1], device).requires_grad_()
    try:
        torch.autograd.grad(model(x).sum(), x)
    except RuntimeError:  # what torch says where there is none
        return False
    return True
