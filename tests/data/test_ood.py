"""OOD sets are deterministic images like the test images."""

import numpy as np
import pytest

from mistakes.config.sections import DRAWN
from mistakes.data import ood
from mistakes.errors import ArgumentError

# OOD sets


@pytest.mark.parametrize("name", DRAWN)
def test_ood_sets_are_deterministic_images_like_the_test_images(
    name: str, rng: np.random.Generator
) -> None:
    test = rng.integers(0, 256, (40, 3, 28, 28), np.uint8)
    first, again, other = (ood.draw(name, test, 30, 7, seed) for seed in (0, 0, 1))
    assert first.shape == (30, 3, 28, 28)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first.reshape(30, -1), axis=0)) > 25


def test_shuffled_images_keep_their_pixels_and_bad_patches_are_refused(
    rng: np.random.Generator,
) -> None:
    test = rng.integers(0, 256, (5, 1, 8, 8), np.uint8)
    shuffled = ood.draw("patch_shuffled", test, 5, 4, 0)
    assert np.array_equal(np.sort(shuffled.reshape(5, -1)), np.sort(test.reshape(5, -1)))
    corners = {test[0, :, i : i + 4, j : j + 4].tobytes() for i in (0, 4) for j in (0, 4)}
    assert {
        shuffled[0, :, i : i + 4, j : j + 4].tobytes() for i in (0, 4) for j in (0, 4)
    } == corners
    with pytest.raises(ArgumentError, match="patch is 3, expected a divisor of 8"):
        ood.draw("patch_shuffled", test, 5, 3, 0)


def test_photographs_are_crops_in_the_colour_and_size_of_the_test_images() -> None:
    colour, grey = (
        ood.draw("photographs", np.zeros((1, channels, 24, 36), np.uint8), 200, 7, 0)
        for channels in (3, 1)
    )
    assert colour.shape == (200, 3, 24, 36)
    assert grey.shape == (200, 1, 24, 36)
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    assert np.abs((colour * weights).sum(1) - grey[:, 0]).max() < 3  # the same crops
    assert np.ptp(grey.reshape(200, -1), axis=1).min() > 5  # none is plain
    assert (colour[:, 0] != colour[:, 1]).any(axis=(1, 2)).mean() > 0.5
