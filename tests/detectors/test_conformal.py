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


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_of_the_flagged_at_most_the_promised_share_is_like_the_calibration_inputs(
    share: float, rng: np.random.Generator
) -> None:
    """1,000 batches of 200 inputs, each with a calibration of its own."""
    foreign = np.arange(200) < 200 * share
    false, found = [], []
    for _ in range(1000):
        scores = rng.normal(size=200) + np.where(foreign, 3, 0)
        flagged = conformal.discoveries(conformal.p_values(rng.normal(size=999), scores), 0.1)
        false.append((flagged & ~foreign).sum() / max(1, flagged.sum()))
        found.append((flagged & foreign).sum() / max(1, foreign.sum()))
    # the procedure's own rate is fdr times the share of the others; three standard errors
    assert np.mean(false) <= 0.1 * (1 - share) + 3 * np.std(false) / np.sqrt(1000)
    assert np.mean(found) > 0.4 or not foreign.any()


def test_a_share_of_false_discoveries_is_a_share() -> None:
    for fdr in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ArgumentError, match="fdr is"):
            conformal.discoveries(np.array([0.5]), fdr)
