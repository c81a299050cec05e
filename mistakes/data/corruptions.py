"""Covariate shift: corrupted images that keep their labels, in the manner of Hendrycks and
Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from mistakes.artifacts import Array

Corruption = Callable[[Array, float, np.random.Generator], Array]


def draw(kind: str, severity: int, images: Array, seed: int) -> Array:
    """Return ``images``, uint8 (n, c, h, w), corrupted, as uint8 of the same shape. ``severity`` is
    1 to 5.

    gaussian_noise, shot_noise : added to each pixel; Poisson with the pixel as its mean. blur :
    Gaussian. brightness : added to every pixel. contrast : towards the mean of each channel.
    rotation : about the centre, to either side.

    Examples
    --------
    >>> images = np.full((2, 1, 28, 28), 100, np.uint8)
    >>> bool(draw("brightness", 5, images, seed=0).mean() > 100)
    True
    """
    # each set has a stream of its own: leaving one out does not change the others
    generator = np.random.default_rng([seed, severity, *kind.encode()])
    corrupt, amounts = _KINDS[kind]
    corrupted = corrupt(images.astype(np.float32) / 255, amounts[severity - 1], generator)
    return (corrupted.clip(0, 1) * 255).round().astype(np.uint8)


def _gaussian_noise(x: Array, deviation: float, generator: np.random.Generator) -> Array:
    return x + deviation * generator.standard_normal(x.shape, np.float32)


def _shot_noise(x: Array, photons: float, generator: np.random.Generator) -> Array:
    return generator.poisson(x * photons) / photons


def _blur(x: Array, pixels: float, _generator: np.random.Generator) -> Array:
    return ndimage.gaussian_filter(x, (0, 0, pixels, pixels), mode="nearest")


def _brightness(x: Array, added: float, _generator: np.random.Generator) -> Array:
    return x + added


def _contrast(x: Array, kept: float, _generator: np.random.Generator) -> Array:
    mean = x.mean((2, 3), keepdims=True)
    return mean + kept * (x - mean)


def _rotation(x: Array, degrees: float, generator: np.random.Generator) -> Array:
    left, right = (
        ndimage.rotate(x, angle, axes=(2, 3), reshape=False, order=1, mode="nearest")
        for angle in (degrees, -degrees)
    )
    return np.where(generator.random((len(x), 1, 1, 1)) < 0.5, left, right)


# What severities 1 to 5 are, pixels in [0, 1]. Noise, brightness and contrast: ImageNet-C's
# (make_imagenet_c.py). Blur: pixels, for sides of about 30. Rotation: degrees.
_KINDS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "blur": (_blur, (0.5, 0.75, 1.0, 1.5, 2.0)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "rotation": (_rotation, (5, 10, 15, 25, 40)),
}
