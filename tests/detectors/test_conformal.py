"""Conformal p-values: the bound on false alarms."""

import numpy as np
import pytest

from mistakes.detectors import conformal
from mistakes.errors import ArgumentError

# conformal


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [19, 39])
def test_false_alarms_keep_the_bound_at_small_n(
    ties: bool, n: int, rng: np.random.Generator
) -> None:
    draws = rng.normal(size=(20_000, n + 1))
    draws = draws.round() if ties else draws
    p = np.array([conformal.p_values(row[:-1], row[-1:])[0] for row in draws])
    for alpha in (0.05, 0.1, 0.2):
        rate, noise = (p <= alpha).mean(), 4 * np.sqrt(alpha / 20_000)
        assert rate <= alpha + noise
        if not ties:  # continuous scores: the bound is met exactly at multiples of 1 / (n + 1)
            assert rate >= alpha - noise


def test_alpha_too_small_for_the_calibration_set_is_refused() -> None:
    conformal.check_attainable(0.05, 19)
    with pytest.raises(ArgumentError, match="alpha is 0.05, expected at least 1/19"):
        conformal.check_attainable(0.05, 18)
