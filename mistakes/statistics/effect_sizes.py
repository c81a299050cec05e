"""Effect sizes with intervals, and power. Scores of failures are compared with scores of successes.

Strata are given as ``parts``: pairs (which failures, which successes) of indices; WHOLE is one
stratum of all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from mistakes.artifacts import Array
from mistakes.statistics import intervals, roc
from mistakes.statistics.resampling import bootstrap_weights

Parts = Sequence[tuple[Any, Any]]
WHOLE: Parts = [(slice(None), slice(None))]
Interval = tuple[float | None, float | None]  # None: no bound at this confidence
WINDOW = 100_000  # pairs left to look at one by one


def parts_of(failures: Array, successes: Array) -> Parts:
    """Return the parts of strata that both hold, from the strata of failures (f,) and of successes
    (s,).

    Examples
    --------
    >>> len(parts_of(np.array(["a", "b"]), np.array(["a", "a", "c"])))
    1
    """
    return [
        (np.flatnonzero(failures == k), np.flatnonzero(successes == k))
        for k in np.intersect1d(failures, successes)
    ]


def a12(
    f: Array,
    s: Array,
    parts: Parts,
    paired: bool,
    resamples: int,
    confidence_level: float,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return P(f > s) + P(f = s) / 2 over the pairs within strata, and its percentile bootstrap
    interval.

    Vargha and Delaney's A12 (2000), the AUROC. ``paired``: f and s (n,) are resampled together.
    Without a pair within a stratum there is no evidence: 0.5 within [0, 1].
    """
    if not parts:
        return 0.5, 0.0, 1.0

    def within(of_f: Array, of_s: Array) -> Array:
        both = [(roc.weighted(f[i], of_f[i]), roc.weighted(s[j], of_s[j])) for i, j in parts]
        won = sum(roc.pairs_won(a, b) for a, b in both)
        pairs = sum(a.below[-1].astype(np.float64) * b.below[-1] for a, b in both)
        return np.divide(won, pairs, out=np.full(np.shape(pairs), 0.5), where=np.asarray(pairs) > 0)

    values = []
    for weights in bootstrap_weights(len(f), resamples, rng):
        other = weights if paired else next(bootstrap_weights(len(s), weights.shape[1], rng))
        values.append(within(weights, other))
    plain = within(np.ones((len(f), 1)), np.ones((len(s), 1)))[0]
    return float(plain), *intervals.percentile(np.concatenate(values), confidence_level)


def a12_null_sd(f: int, s: int, parts: Parts) -> float | None:
    """Return the standard deviation of A12 when failures and successes do not differ, without ties;
    None without pairs.

    The variance of U is m n (m + n + 1) / 12 (Mann and Whitney 1947) in each stratum, and strata
    are independent.

    Examples
    --------
    >>> round(a12_null_sd(30, 70, WHOLE), 4)
    0.0633
    """
    sizes = np.array(
        [(np.arange(f)[i].size, np.arange(s)[j].size) for i, j in parts], float
    ).reshape(-1, 2)
    m, n = sizes.T
    return float(np.sqrt((m * n * (m + n + 1) / 12).sum()) / (m * n).sum()) if len(sizes) else None


def power(a12_: float, null_sd: float, alpha: float) -> float:
    """Return the power of the one-sided Mann-Whitney test at level alpha against A12 = ``a12_``
    (Noether 1987).

    Noether, Sample size determination for some common nonparametric tests, JASA 82 (1987): the
    variance under the alternative is taken to be that of the null. Pairs count as independent, so
    for pairs it is a lower bound where their members are positively correlated.

    Examples
    --------
    >>> round(power(0.6, 0.03, 0.05), 3)
    0.954
    """
    return float(stats.norm.sf(stats.norm.isf(alpha) - (a12_ - 0.5) / null_sd))


def detectable_a12(null_sd: float, alpha: float, power_: float = 0.8) -> float | None:
    """Return the smallest A12 that the test of ``power`` finds with power ``power_``; None where
    not even 1 is.

    Examples
    --------
    >>> round(detectable_a12(0.03, 0.05), 3)
    0.575
    """
    found = 0.5 + null_sd * float(stats.norm.isf(alpha) + stats.norm.ppf(power_))
    return found if found <= 1 else None


def hodges_lehmann(f: Array, s: Array, confidence_level: float) -> tuple[float, Interval]:
    """Return the median of all differences f_i - s_j, and the interval that inverts the
    Mann-Whitney test (Moses).

    Hollander and Wolfe, Nonparametric Statistical Methods, 4.2 and 4.3, normal approximation. The
    interval is that of a shift between distributions of one shape.

    Examples
    --------
    >>> shift, _ = hodges_lehmann(np.arange(10.0) + 3, np.arange(10.0), 0.95)
    >>> shift
    3.0
    """
    m, n = len(f), len(s)
    spread = np.sqrt(m * n * (m + n + 1) / 12)
    return _shift(f, np.sort(-s), np.zeros(m, np.int64), spread, confidence_level)


def hodges_lehmann_paired(difference: Array, confidence_level: float) -> tuple[float, Interval]:
    """Return the median of the Walsh averages of differences (n,), and the interval that inverts
    the signed-rank test.

    Hollander and Wolfe, 3.2 and 3.3, normal approximation.

    Examples
    --------
    >>> hodges_lehmann_paired(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 0.9)[0]
    3.5
    """
    # the Walsh averages are sums of halves i <= j
    half, n = (
        np.sort(difference) / 2,
        len(difference),
    )
    return _shift(
        half, half, np.arange(n), np.sqrt(n * (n + 1) * (2 * n + 1) / 24), confidence_level
    )


def _shift(
    x: Array, y: Array, first: Array, spread: float, confidence_level: float
) -> tuple[float, Interval]:
    """Return the median of the sums of _kth_sum and its interval; ``spread`` is the null deviation
    of their number.
    """
    count = int((len(y) - first).sum())
    middle = [_kth_sum(x, y, first, k) for k in {(count - 1) // 2, count // 2}]
    # the outermost sums that the test does not reject, counted from 1; below 1 it rejects nothing
    c = int(np.floor(count / 2 - stats.norm.isf((1 - confidence_level) / 2) * spread))
    interval = (
        (_kth_sum(x, y, first, c - 1), _kth_sum(x, y, first, count - c)) if c >= 1 else (None, None)
    )
    return float(np.mean(middle)), interval


def _kth_sum(x: Array, y: Array, first: Array, k: int) -> float:
    """Return the k-th smallest, from 0, of all x_i + y_j with j >= first_i; y is sorted. O(log)
    passes over x.

    Bisects on the value, counting the sums up to it, until few enough lie between the bounds to be
    made.
    """
    low, high = x.min() + y[0], x.max() + y[-1]
    # of each x_i, the sums within the bounds are j in [below, upto)
    below, upto = (
        first,
        np.full(len(x), len(y)),
    )
    while (upto - below).sum() > WINDOW and low < (middle := (low + high) / 2) < high:
        ends = np.maximum(np.searchsorted(y, middle - x, side="right"), first)
        if (ends - first).sum() <= k:
            low, below = middle, ends
        else:
            high, upto = middle, ends
    sizes = upto - below
    if sizes.sum() > WINDOW:  # no number between the bounds: all that is left are ties
        return float(high)
    offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    sums = np.repeat(x, sizes) + y[np.repeat(below, sizes) + offsets]
    rest = k - int((below - first).sum())
    return float(np.partition(sums, rest)[rest])
