"""Pixels as networks take them."""

import torch
from torch import Tensor

from mistakes.artifacts import Array


def to_unit(images: Array | Tensor, device: torch.device | None = None) -> Tensor:
    """Return uint8 images (n, c, h, w) as float32 in [0, 1], channels last.

    Examples
    --------
    >>> to_unit(torch.full((1, 1, 1, 2), 51, dtype=torch.uint8)).tolist()
    [[[[0.20000000298023224, 0.20000000298023224]]]]
    """
    x = torch.as_tensor(images if isinstance(images, Tensor) else images.copy()).to(device)
    return (x.float() / 255).contiguous(memory_format=torch.channels_last)
