"""The trend over deciles against closed forms."""

import numpy as np
import pytest
from scipy import stats

from mistakes.statistics import trend

# H5: trend


def test_trend_agrees_with_the_closed_form_of_cochran_and_armitage(
    rng: np.random.Generator,
) -> None:
    scores = rng.normal(size=500)
    failed = rng.random(500) < 1 / (1 + np.exp(1 - 0.5 * scores))
    counts = trend.by_decile(scores, failed)
    assert counts.sum(1).tolist() == [50] * 10
    n, t, rate = counts.sum(1), np.arange(10), failed.mean()
    deviation = (t * (counts[:, 1] - n * rate)).sum()
    z = deviation / np.sqrt(rate * (1 - rate) * ((n * t**2).sum() - (n * t).sum() ** 2 / 500))
    # statsmodels takes the variance of a permutation: n - 1 in place of n
    assert trend.cochran_armitage(scores, failed) == pytest.approx(
        stats.norm.sf(z * np.sqrt(499 / 500))
    )
    assert trend.cochran_armitage(-scores, failed) > 0.99
    ratio = trend.rate_ratio(scores, failed, 0.95)
    assert ratio["rate_ratio"] == pytest.approx(counts[-1, 1] / counts[0, 1])
    assert ratio["rate_ratio_low"] < ratio["rate_ratio"] < ratio["rate_ratio_high"]


def test_trend_without_failures_below_or_with_ties_is_honest() -> None:
    scores, failed = np.arange(100.0), np.arange(100) > 60
    found = trend.rate_ratio(scores, failed, 0.95)
    assert found["rate_ratio"] is None
    assert 1 < found["rate_ratio_low"] < found["rate_ratio_high"] < np.inf
    assert trend.cochran_armitage(np.zeros(100), failed) == 1
    assert trend.quantile_bins(np.r_[np.zeros(60), np.arange(1, 41)], 10).tolist()[:60] == [0] * 60
