"""Out-of-distribution images, deterministic in the seed, stored as uint8: drawn, or taken from
another data set.
"""

import string
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mistakes.artifacts import Array
from mistakes.errors import ArgumentError, InputError

Maker = Callable[[Array, int, np.random.Generator, int], Array]


def draw(name: str, test: Array, count: int, patch: int, seed: int) -> Array:
    """Return up to ``count`` images of set ``name`` as uint8 (m, c, h, w), like the ID images
    ``test`` (n, c, h, w).

    photographs : crops of those that scikit-learn and scikit-image ship, of any place and size;
    digits : scikit-learn's, resized; glyphs : letters in the fonts that matplotlib ships; uniform,
    gaussian : noise, pixel by pixel; inverted, patch_shuffled : test images with grey values
    mirrored, or cut into squares of ``patch`` pixels that change places. Raises ArgumentError where
    the size of the images is no multiple of ``patch``.
    """
    # each set has a stream of its own: leaving one out does not change the others
    generator = np.random.default_rng([seed, *name.encode()])
    return np.ascontiguousarray(_MAKERS[name](test, count, generator, patch))


def resembling(name: str, images: Array, test: Array, count: int, seed: int) -> Array:
    """Return up to ``count`` of another data set's ``images``, uint8 (m, c', h', w'), in the form
    of ``test``.

    Colour becomes grey by the weights of ITU-R 601, grey becomes colour by repetition; another size
    is scaled to that of ``test`` (n, c, h, w), bilinear, not cropped. What has the form already
    stays as it is.
    """
    taken = images[chosen(name, len(images), count, seed)]
    channels, height, width = test.shape[1:]
    if taken.shape[1:] == test.shape[1:]:
        return np.ascontiguousarray(taken)
    mode = "L" if channels == 1 else "RGB"
    pictures = [
        Image.fromarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)).convert(mode) for x in taken
    ]
    scaled = [
        np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        for picture in pictures
    ]
    return np.ascontiguousarray(
        np.stack(scaled).reshape(len(scaled), height, width, channels).transpose(0, 3, 1, 2)
    )


def chosen(name: str, n: int, count: int, seed: int) -> Array:
    """Return which of ``n`` inputs set ``name`` takes, rising: ``count`` of them, or all where
    there are fewer.

    Examples
    --------
    >>> chosen("uniform", 10, 3, seed=0).tolist()
    [0, 2, 6]
    """
    return _chosen(n, count, np.random.default_rng([seed, *name.encode()]))


def _chosen(n: int, count: int, generator: np.random.Generator) -> Array:
    return np.sort(generator.permutation(n)[:count])


def _grey(pictures: list[Image.Image], channels: int) -> Array:
    """Stack grey pictures to uint8 (n, channels, h, w)."""
    return np.stack([np.asarray(picture) for picture in pictures])[:, None].repeat(channels, axis=1)


def _digits(test: Array, count: int, generator: np.random.Generator, _patch: int) -> Array:
    from sklearn.datasets import load_digits

    grey = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    rows = _chosen(len(grey), count, generator)
    _, channels, height, width = test.shape
    return _grey(
        [Image.fromarray(grey[i]).resize((width, height), Image.Resampling.BILINEAR) for i in rows],
        channels,
    )


def _fonts() -> list[Path]:
    folder = _installed("matplotlib") / "mpl-data" / "fonts" / "ttf"
    found = sorted([*folder.glob("DejaVu*.ttf"), *folder.glob("STIXGeneral*.ttf")])
    # those hold signs of mathematics, and no letters
    return [font for font in found if "Display" not in font.name]


def _glyphs(test: Array, count: int, generator: np.random.Generator, _patch: int) -> Array:
    _, channels, height, width = test.shape
    fonts = _fonts()
    pictures = []
    for _ in range(count):
        size = int(generator.integers(round(0.7 * height), round(1.1 * height) + 1))
        font = ImageFont.truetype(str(fonts[generator.integers(len(fonts))]), size)
        picture = Image.new("L", (width, height))
        letter = string.ascii_letters[generator.integers(52)]
        ImageDraw.Draw(picture).text(
            (width / 2, height / 2), letter, fill=255, font=font, anchor="mm"
        )
        pictures.append(picture)
    return _grey(pictures, channels)


PHOTOGRAPHS = {
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "skimage/data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
}


def _photographs(test: Array, count: int, generator: np.random.Generator, _patch: int) -> Array:
    """Crop squares of 64 pixels to the shorter side, each photograph as often as any other."""
    channels, height, width = test.shape[1:]
    whole = []
    for place, names in PHOTOGRAPHS.items():
        package, _, folder = place.partition("/")
        for name in names:
            with Image.open(_installed(package) / folder / name) as file:
                whole.append(file.convert("L" if channels == 1 else "RGB"))
    crops = []
    for _ in range(count):
        picture = whole[generator.integers(len(whole))]
        side = int(generator.integers(64, min(picture.size) + 1))
        left, top = (int(generator.integers(0, length - side + 1)) for length in picture.size)
        box = (left, top, left + side, top + side)
        small = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        crops.append(np.asarray(small).reshape(height, width, channels))
    return np.stack(crops).transpose(0, 3, 1, 2)


def _installed(package: str) -> Path:
    """Return the folder of a package, which is found, not imported; InputError where it is not
    there.
    """
    specification = find_spec(package)
    if specification is None or specification.origin is None:
        raise InputError(
            "environment", package, "missing", "an installed one (its images are used)"
        )
    return Path(specification.origin).parent


def _uniform(test: Array, count: int, generator: np.random.Generator, _patch: int) -> Array:
    return generator.integers(0, 256, (count, *test.shape[1:]), np.uint8)


def _gaussian(test: Array, count: int, generator: np.random.Generator, _patch: int) -> Array:
    return (
        generator.normal(127.5, 64, (count, *test.shape[1:])).round().clip(0, 255).astype(np.uint8)
    )


def _some(test: Array, count: int, generator: np.random.Generator) -> Array:
    return test[_chosen(len(test), count, generator)]


def _inverted(test: Array, count: int, generator: np.random.Generator, _patch: int) -> Array:
    return 255 - _some(test, count, generator)


def _patch_shuffled(test: Array, count: int, generator: np.random.Generator, patch: int) -> Array:
    x = _some(test, count, generator)
    n, channels, height, width = x.shape
    if height % patch or width % patch:
        raise ArgumentError(
            "patch", patch, f"a divisor of {height} and {width}, the size of the images"
        )
    rows, columns = height // patch, width // patch
    # (n, rows, columns, c, p, p)
    grid = x.reshape(n, channels, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5)
    squares = grid.reshape(n, rows * columns, channels, patch, patch)
    order = generator.permuted(np.tile(np.arange(rows * columns), (n, 1)), axis=1)
    moved = squares[np.arange(n)[:, None], order].reshape(n, rows, columns, channels, patch, patch)
    return moved.transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)


_MAKERS: dict[str, Maker] = {
    "photographs": _photographs,
    "digits": _digits,
    "glyphs": _glyphs,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "inverted": _inverted,
    "patch_shuffled": _patch_shuffled,
}
