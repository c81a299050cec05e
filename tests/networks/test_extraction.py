"""Several looks at one image."""

import numpy as np
import pytest
import torch
from scipy import special

from mistakes.networks import architectures
from mistakes.networks.extraction import Extractor, view

CPU = torch.device("cpu")
VIEWS = ["left_1", "down_2", "mirror"]


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), np.uint8)


def seen(name: str) -> np.ndarray:
    """Return the images as a view sees them, by NumPy."""
    x = images()
    if name == "mirror":
        return x[:, :, :, ::-1].copy()
    if name == "left_1":
        return np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1)), mode="edge")[:, :, :, 1:]
    return np.pad(x, ((0, 0), (0, 0), (2, 0), (0, 0)), mode="edge")[:, :, :-2]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_the_image_moved_or_mirrored(name: str) -> None:
    assert np.array_equal(view(torch.as_tensor(images()), name).numpy(), seen(name))


def test_views_are_the_log_of_the_mean_probability() -> None:
    model = architectures.new("small_cnn", 4, 3, images(), 0).eval()
    found = Extractor(model, "penultimate", None, CPU, VIEWS).whole(images(), 7)
    plain = Extractor(model, "penultimate", None, CPU)
    each = [plain.whole(x, 30).logits for x in (images(), *map(seen, VIEWS))]
    mean = np.mean([special.softmax(logits.astype(float), 1) for logits in each], axis=0)
    assert np.exp(found.views) == pytest.approx(mean, rel=1e-4)
    assert np.array_equal(
        found.logits, Extractor(model, "penultimate", None, CPU).whole(images(), 7).logits
    )
    assert plain.whole(images(), 7).views is None
    assert "views" not in plain.whole(images(), 7).arrays()
