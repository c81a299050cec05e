"""Every kind of image file and pixel."""

from pathlib import Path

import numpy as np
import pytest
from pictures import as_folder, encoded
from PIL import Image

from mistakes.data import (
    image_folder,
    pictures,
)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_picture_of_an_animation_or_of_pages_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = pictures.decode(
        encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), None, 3
    )
    assert image.shape == (3, 9, 12)
    assert (image == np.array([255, 0, 0], np.uint8)[:, None, None]).all()


DEEP = (np.arange(12 * 9, dtype=np.uint16) * 600).reshape(9, 12)  # up to 64,200


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(DEEP), "PNG"),
        encoded(Image.fromarray(DEEP), "TIFF"),
        encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
        b"P5\n12 9\n65535\n" + DEEP.astype(">u2").tobytes(),
    ],
)
def test_16_bit_grey_is_scaled_and_not_cut_off(content: bytes) -> None:
    expected = np.rint(DEEP / 257).astype(np.uint8)
    assert expected.max() == 250
    assert np.array_equal(pictures.decode(content, None, 1), expected[None])
    assert np.array_equal(pictures.decode(content, None, 3), expected[None].repeat(3, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(DEEP), "PNG", exif=exif)
    assert np.array_equal(pictures.decode(turned, None, 1)[0], np.rot90(expected, -1))


def test_values_of_unknown_scale_are_refused_and_dark_ones_told(tmp_path: Path) -> None:
    for dtype in (np.int32, np.float32):
        with pytest.raises(ValueError, match="32 bits a channel, of unknown scale"):
            pictures.decode(encoded(Image.fromarray(DEEP.astype(dtype)), "TIFF"), None, 1)
    masks = {
        f"{name}/{i}.png": encoded(Image.new("L", (12, 12), i), "PNG")
        for name in "ab"
        for i in range(2)
    }
    found = image_folder.read(as_folder(tmp_path, masks), None, 1, "refuse")
    assert found.warnings == (
        "no pixel is brighter than 1 of 255: are the values scaled otherwise?",
    )


def test_transparency_lies_on_white_and_other_modes_are_themselves() -> None:
    palette = Image.new("P", (12, 9), 0)
    palette.putpalette([10, 20, 30] * 256)
    half = Image.new("RGBA", (12, 9), (10, 20, 30, 0))
    for content, expected in (
        (encoded(palette, "PNG"), [10, 20, 30]),
        (encoded(palette, "PNG", transparency=0), [255, 255, 255]),
        (encoded(palette, "GIF", transparency=0), [255, 255, 255]),
        (encoded(half, "PNG"), [255, 255, 255]),
        (encoded(Image.new("LA", (12, 9), (40, 255)), "PNG"), [40, 40, 40]),
        (encoded(Image.new("1", (12, 9), 1), "PNG"), [255, 255, 255]),
        (encoded(Image.new("CMYK", (12, 9), (0, 255, 255, 0)), "JPEG"), [255, 0, 0]),
    ):
        image = pictures.decode(content, None, 3).astype(int)
        assert np.abs(image - np.array(expected)[:, None, None]).max() <= 2
