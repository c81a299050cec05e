"""Random changes of images that keep their class: tensors in, tensors out, deterministic in the
generator.

Every draw is made on the CPU, so that a run on another device sees the same changes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

OFTEN = 0.3  # how often each change is made: two of seven on average, as many as FixMatch makes
ROTATION = 30.0  # degrees, at most, as the next ones
SHEAR = 0.3
TRANSLATION = 0.3  # of the side
BRIGHTNESS = 0.5  # factor 0.5 to 1.5
CONTRAST = 0.5
CUTOUT = 0.5  # of the side, of the square that is painted grey


def weak(x: Tensor, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Return images (n, c, h, w), half of them mirrored, each moved by up to ``shift`` pixels, the
    edge repeated.

    Examples
    --------
    >>> weak(torch.zeros(2, 1, 8, 8), True, 2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    if flip:
        mirrored = torch.rand(len(x), generator=generator).lt(0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if shift:
        n, _, h, w = x.shape
        dy, dx = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator).to(x.device)
        rows = (torch.arange(h, device=x.device) + dy).clamp(0, h - 1)  # (n, h)
        columns = (torch.arange(w, device=x.device) + dx).clamp(0, w - 1)  # (n, w)
        image = torch.arange(n, device=x.device)[:, None, None]
        x = x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, c, h, w) in [0, 1], each changed in its own way, channels last.

    Rotation, shear along both sides, translation along both, brightness and contrast, each of them
    with probability OFTEN and of a size uniform up to the most; then a grey square at any place
    (Cutout, DeVries and Taylor 2017). These stand for the fourteen changes of RandAugment (Cubuk et
    al. 2020) that FixMatch draws from.

    Examples
    --------
    >>> strong(torch.zeros(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    n, device = len(images), images.device
    # uniform in [-1, 1] where the change is made, and 0 where it is not
    size = torch.rand(7, n, generator=generator) * 2 - 1
    size = size.where(torch.rand(7, n, generator=generator) < OFTEN, 0).to(device)
    moved = functional.grid_sample(
        images,
        functional.affine_grid(_affine(size[:5]), list(images.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    brightness, contrast = (
        1 + BRIGHTNESS * size[5].reshape(n, 1, 1, 1),
        1 + CONTRAST * size[6].reshape(n, 1, 1, 1),
    )
    mean = moved.mean((1, 2, 3), keepdim=True)
    lit = (((moved - mean) * contrast + mean) * brightness).clamp(0, 1)
    drawn = torch.rand(3, n, generator=generator).to(device)
    return _cut_out(lit, drawn).contiguous(memory_format=torch.channels_last)


def _affine(size: Tensor) -> Tensor:
    """Return maps (n, 2, 3) from places in the result to places in the image, of five changes in
    [-1, 1], (5, n).
    """
    angle, shear_x, shear_y = size[0] * math.radians(ROTATION), size[1] * SHEAR, size[2] * SHEAR
    one, cos, sin = torch.ones_like(angle), angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    shear = torch.stack([one, shear_x, shear_y, one], dim=1).reshape(-1, 2, 2)
    shift = size[3:].T[:, :, None] * 2 * TRANSLATION  # places run from -1 to 1
    return torch.cat([rotation @ shear, shift], dim=2)


def _cut_out(images: Tensor, drawn: Tensor) -> Tensor:
    """Paint a grey square; its centre and its side are uniform, from (3, n) in [0, 1]."""
    n, _, height, width = images.shape
    y, x, side = drawn.reshape(3, n, 1, 1, 1)
    half = side * CUTOUT / 2 * min(height, width)
    rows = torch.arange(height, device=images.device).reshape(1, 1, -1, 1) + 0.5
    columns = torch.arange(width, device=images.device).reshape(1, 1, 1, -1) + 0.5
    inside = ((rows - y * height).abs() < half) & ((columns - x * width).abs() < half)
    return images.masked_fill(inside, 0.5)
