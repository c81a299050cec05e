"""Bins of equal size, and the trend of the error rate over deciles of a score."""

from typing import Any

import numpy as np
from scipy import stats

from mistakes.artifacts import Array

DECILES = 10


def quantile_bins(x: Array, bins: int) -> Array:
    """Return the bin of each x (n,): bins of equal size between quantiles, 0 the lowest; equal
    values share a bin.

    Examples
    --------
    >>> quantile_bins(np.array([0.0, 1.0, 2.0, 3.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    edges = np.unique(np.quantile(x, np.arange(1, bins) / bins, method="lower"))
    return np.unique(np.searchsorted(edges, x, side="left"), return_inverse=True)[1]


def by_decile(scores: Array, failed: Array) -> Array:
    """Return int (k, 2): successes and failures in each decile of scores (n,), the lowest first; k
    < 10 where tied.

    Examples
    --------
    >>> by_decile(np.arange(20.0), np.arange(20) > 17)[-1].tolist()
    [0, 2]
    """
    deciles = quantile_bins(scores, DECILES)
    return np.stack(
        [
            np.bincount(deciles[failed == side], minlength=deciles.max() + 1)
            for side in (False, True)
        ],
        1,
    )


def cochran_armitage(scores: Array, failed: Array) -> float:
    """Test whether the error rate rises over the deciles of ``scores``, one-sided; 1 where all are
    tied.

    Armitage, Tests for linear trends in proportions and frequencies, Biometrics 11 (1955); scores 0
    to 9.

    Examples
    --------
    >>> cochran_armitage(np.arange(100.0), np.arange(100) > 80) < 1e-6
    True
    """
    from statsmodels.stats.contingency_tables import Table

    counts = by_decile(scores, failed)
    if len(counts) < 2:
        return 1.0
    trend = Table(counts, shift_zeros=False).test_ordinal_association(
        np.arange(len(counts)), np.arange(2)
    )
    return float(stats.norm.sf(trend.zscore))


def rate_ratio(scores: Array, failed: Array, confidence_level: float) -> dict[str, float | None]:
    """Return the error rate of the highest decile over that of the lowest, None where that is 0,
    and an interval.

    The interval adds half a failure to both, so that it is finite (log-adjusted, Walter 1975).
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    counts = by_decile(scores, failed)
    found: dict[str, Any] = {"rate_ratio": None, "rate_ratio_low": None, "rate_ratio_high": None}
    if len(counts) < 2:
        return found
    (high, low), (n_high, n_low) = counts[[-1, 0], 1], counts[[-1, 0]].sum(axis=1)
    bounds = confint_proportions_2indep(
        high, n_high, low, n_low, compare="ratio", method="log-adjusted", alpha=1 - confidence_level
    )
    ratio = float(high / n_high / (low / n_low)) if low else None
    return {
        "rate_ratio": ratio,
        "rate_ratio_low": float(bounds[0]),
        "rate_ratio_high": float(bounds[1]),
    }
