"""One image file to an array: which files are images, and what becomes of every kind of pixel.

The file's first picture is taken (of an animation, of pages) and turned upright as its EXIF data
say. 16-bit values v become v / 257, so that 65535 is 255 (colour with 16 bits a channel keeps the
upper 8). What is transparent is laid on white. 1 bit, palettes and CMYK become grey (weights of
ITU-R 601) or RGB as Pillow does it. 32-bit values have no known scale and are refused.
"""

import io
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mistakes.artifacts import Array
from mistakes.data import archives
from mistakes.errors import InputError

# Pillow knows more; some of them start other programs
FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)
READ = {
    ".apng",
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
_UNREAD = {
    ".avif",
    ".dcm",
    ".eps",
    ".exr",
    ".heic",
    ".heif",
    ".ico",
    ".jp2",
    ".jxl",
    ".psd",
    ".svg",
    ".tga",
}
# in lower case, of files that are images, and so are never left out without need
SUFFIXES = READ | _UNREAD


def named_as_image(name: PurePath) -> bool | None:
    """Tell whether a file is an image by its name; None where the name does not say: without a
    suffix, or a number.

    Examples
    --------
    >>> named_as_image(PurePath("a/b.JPG")), named_as_image(PurePath("notes.txt"))
    (True, False)
    """
    suffix = name.suffix.lower()
    return None if suffix.strip(".0123456789") == "" else suffix in SUFFIXES


def read_one(path: Path, size: int | None, channels: int) -> Array:
    """Return one file as uint8 (channels, h, w), as ``decode``. Raises InputError where it is no
    whole image.
    """
    try:
        return decode(path.read_bytes(), size, channels)
    except Exception as error:  # each image format has its own exceptions
        raise InputError(
            path, f"cannot be read ({reason(error, path)}); {', '.join(FORMATS)} can"
        ) from None


def decode(content: bytes, size: int | tuple[int, int] | None, channels: int) -> Array:
    """Return an image as uint8 (channels, h, w), upright, scaled and cropped to ``size``.

    size : the side of a square, or width and height; None keeps the image as large as it is.
    channels : 1 (grey) or 3 (colour). Raises whatever Pillow does, UnidentifiedImageError where
    ``content`` is of none of FORMATS, ValueError where a channel has more than 16 bits.
    """
    mode = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        upright = _of_8_bits(ImageOps.exif_transpose(picture), picture)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        upright = upright.convert(mode)
    if size is not None:
        wanted = (size, size) if isinstance(size, int) else size
        upright = ImageOps.fit(upright, wanted, Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(upright)).transpose(2, 0, 1)


def _of_8_bits(upright: Image.Image, file: Image.Image) -> Image.Image:
    """Scale grey values of 16 bits, which Pillow would cut off at 255."""
    if not upright.mode.startswith(("I", "F")):
        return upright
    # Pillow keeps 16 bits of those in 32
    if not upright.mode.startswith("I;16") and file.format not in {
        "PNG",
        "PPM",
    }:
        raise ValueError("32 bits a channel, of unknown scale")
    bits = 16
    if file.format == "TIFF":
        (bits,) = file.tag_v2.get(258, (16,))  # type: ignore[attr-defined]  # BitsPerSample: also 12
    scaled = np.rint(np.asarray(upright, np.float64) * (255 / (2**bits - 1)))
    return Image.fromarray(scaled.astype(np.uint8))


def reason(error: Exception, name: PurePath) -> str:
    """Return in a few words why a file could not be read."""
    if isinstance(error, UnidentifiedImageError):  # its own text holds an address in memory
        return "of a format that is not read" if name.suffix.lower() in _UNREAD else "not an image"
    return archives.reason(error)
