"""Corruptions grow with severity."""

import numpy as np
import pytest

from mistakes.data import corruptions

# corruptions and held-out classes


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "shot_noise", "blur", "brightness", "contrast", "rotation"]
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28)])
def test_corruptions_grow_with_severity_and_are_deterministic(
    kind: str, shape: tuple[int, int, int], rng
) -> None:
    steps = np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)
    images = (255 * (steps + 0.3 * rng.random((40, *shape))) / 1.3).astype(np.uint8)
    sets = [corruptions.draw(kind, severity, images, 0) for severity in range(1, 6)]
    distances = [np.square(made.astype(float) - images).mean() for made in sets]
    assert all(a < b for a, b in zip([0.0, *distances], distances, strict=False)), distances
    assert {(made.shape, made.dtype) for made in sets} == {(images.shape, images.dtype)}
    assert np.array_equal(sets[2], corruptions.draw(kind, 3, images, 0))
    random = not np.array_equal(sets[2], corruptions.draw(kind, 3, images, 1))
    assert random == (kind in {"gaussian_noise", "shot_noise", "rotation"})
