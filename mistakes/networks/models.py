"""Any classifier from its file: one that was trained here, or an own one."""

from pathlib import Path

import torch

from mistakes.artifacts import Array, load_tensors
from mistakes.data.pixels import to_unit
from mistakes.errors import InputError
from mistakes.networks import architectures, external

Model = architectures.Classifier | external.Custom
NO_GRADIENT = "the logits of this classifier have no gradient, along which attacks descend"
FLAT = "no loss of this classifier has a gradient that is not zero, along which attacks descend"


def load(path: Path, trust: bool = True) -> Model:
    """Rebuild what stage classifier wrote, in evaluation mode.

    Raises InputError where the file is corrupt, and without ``trust`` where it names a program of
    others to run.
    """
    tensors, description = load_tensors(path)
    if not trust and description.get("source") in external.PROGRAMS:
        program = str(description.get("entrypoint", description["source"]))
        expected = "one that you trust: say so with --trust (in Python trust=True), and it runs"
        raise InputError(path, "program", program, expected)
    return (
        external.rebuild(tensors, description, path)
        if "source" in description
        else architectures.load(path)
    )


def differentiable(model: Model, images: Array, device: torch.device) -> bool:
    """Say whether the logits of uint8 images (n, c, h, w) have a gradient; only the first image is
    tried.
    """
    x = to_unit(images[:1], device).requires_grad_()
    try:
        torch.autograd.grad(model(x).sum(), x)
    except RuntimeError:  # what torch says where there is none
        return False
    return True
