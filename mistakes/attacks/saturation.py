"""Classifiers that are so sure that the gradient of the cross-entropy, along which attacks descend,
is exactly zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mistakes.artifacts import Array
from mistakes.data.pixels import to_unit
from mistakes.networks.models import Model

# units of logit; from 17 on float32 rounds the largest probability to 1, and its gradient to 0
LEAD = 10.0


class Unsaturated(torch.nn.Module):
    """A classifier to be attacked: it predicts the same, and its cross-entropy has a gradient where
    it is very sure.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.classes = model, model.classes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, as ``limit_lead`` makes them."""
        if x.requires_grad:  # the logarithm of a softmax that is 0 has a gradient that is none
            x.register_hook(lambda gradient: gradient.nan_to_num(0))
        return limit_lead(self.model(x))


def limit_lead(logits: Tensor) -> Tensor:
    """Return logits (n, k) of the same predictions, of which the largest leads by LEAD at most.

    A softmax that saturates in float32 has no gradient. So the logits of an image whose largest one
    leads by more are divided: its cross-entropy is then nearly the margin, the loss of Carlini and
    Wagner (2017), in units of itself, as in the DLR loss of Croce and Hein (2020).

    Examples
    --------
    >>> limit_lead(torch.tensor([[0.0, 1000.0]])).tolist()
    [[0.0, 10.0]]
    """
    largest = logits.detach().topk(2, dim=1).values
    return logits / ((largest[:, 0] - largest[:, 1]) / LEAD).clamp(min=1)[:, None]


def without_gradient(
    model: Model | Unsaturated, images: Array, labels: Array, device: torch.device, batch_size: int
) -> Array:
    """Return where the cross-entropy of uint8 images (n, c, h, w) has a gradient of exactly zero
    (or none), bool (n,).

    No gradient attack can start there.
    """
    found = []
    for i in range(0, len(images), batch_size):
        x = to_unit(images[i : i + batch_size], device).requires_grad_()
        y = torch.as_tensor(labels[i : i + batch_size].copy()).to(device)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), y, reduction="sum"), x)
        found.append(~(gradient.nan_to_num(0).flatten(1) != 0).any(1).cpu())
    return torch.cat(found).numpy()


def attackable(
    model: Model,
    images: Array,
    labels: Array,
    device: torch.device,
    batch_size: int,
    *,
    most: float,
    warn: Callable[[str], None],
) -> tuple[Model | Unsaturated, Array, Array]:
    """Return a network to attack, and where the cross-entropy has no gradient, and where no loss
    has one, bool (n,).

    It is ``model`` itself where the cross-entropy has a gradient at all images, and else
    Unsaturated, which is warned of where it has none at a share of more than ``most``.
    """
    saturated = without_gradient(model, images, labels, device, batch_size)
    if not saturated.any():
        return model, saturated, saturated
    victim = Unsaturated(model)
    flat = without_gradient(victim, images, labels, device, batch_size)
    if saturated.mean() > most:
        warn(warning(saturated, flat))
    return victim, saturated, flat


def warning(saturated: Array, flat: Array) -> str:
    """Return in a sentence at which images, bool (n,), the cross-entropy has no gradient, and no
    loss has one.
    """
    said = (
        f"the cross-entropy has a gradient of exactly zero at {saturated.sum()} of {len(saturated)}"
        f" attacked images ({100 * saturated.mean():.1f} %), since the classifier is very sure:"
        " their margin is attacked instead"
    )
    if flat.any():
        most = f"{100 * flat.mean():.1f} %"
        said += (
            f"; at {flat.sum()} no loss has a gradient, and success rates are too low by up to"
            f" {most}"
        )
    return said
