"""Selective prediction with a guarantee: accept as many answers as can be, of which at most a share
is wrong.

Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017, for the promise;
Angelopoulos et al., "Learn then test", 2021, for how its many thresholds are handled: they are
fixed on val and tested on cal in one order, the smallest region first, each at the full level, and
the first that fails ends it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mistakes.artifacts import Array
from mistakes.errors import ArgumentError

STEPS = 200  # thresholds
SAFE = 4  # times the answers that could keep the promise without an error: the first region tested


@dataclass(frozen=True)
class Region:
    """The answers with a score of at most ``threshold``."""

    threshold: float
    coverage: float  # share of cal that is accepted
    wrong: float  # share of that which is wrong, on cal
    bound: float  # of the error rate of what is accepted, which holds with probability 1 - delta


def curve(validation: Array, calibration: Array, wrong: Array) -> pd.DataFrame:
    """Return what is accepted at each threshold: expected (share of val), threshold, and of cal the
    numbers accepted, wrong and n.

    validation : scores (m,) of val, whose quantiles are the thresholds. calibration : scores (n,)
    of cal, and which of its answers are ``wrong``, bool (n,); neither is looked at before.

    Examples
    --------
    >>> rows = curve(np.arange(200.0), np.arange(200.0), np.arange(200) > 150)
    >>> rows.iloc[[99, 199]]["wrong"].tolist()
    [0, 49]
    """
    expected = np.arange(1, STEPS + 1) / STEPS
    quantiles = np.quantile(validation, expected, method="higher")
    thresholds = np.array([float(f"{value:.6g}") for value in quantiles])  # as a CSV keeps them
    order = np.argsort(calibration, kind="stable")
    accepted = np.searchsorted(calibration[order], thresholds, side="right")
    errors = np.r_[0, np.cumsum(wrong[order])]
    return pd.DataFrame(
        {
            "expected": expected,
            "threshold": thresholds,
            "accepted": accepted,
            "wrong": errors[accepted],
            "n": len(calibration),
        }
    )


def largest(rows: pd.DataFrame, error: float, delta: float) -> Region | None:
    """Return the largest region of which, with probability 1 - ``delta`` over cal, at most a share
    ``error`` is wrong; None where there is none.

    rows : what ``curve`` returns. The null of each threshold, that more are wrong, is tested by the
    exact binomial tail. The order does not depend on cal, so the first true null is fixed, and is
    rejected with probability delta at most: no correction is needed. Raises ArgumentError where
    ``error`` or ``delta`` is no share.
    """
    for name, value in (("error", error), ("delta", delta)):
        if not 0 < value < 1:
            raise ArgumentError(name, value, "more than 0 and less than 1")
    least = np.log(delta) / np.log1p(-error)  # answers without an error that keep the promise
    tried = rows[rows["expected"] * rows["n"] >= min(SAFE * least, rows["n"].iloc[0])]
    rejected = stats.binom.cdf(tried["wrong"], tried["accepted"], error) <= delta
    if not rejected[0]:
        return None
    found = tried.iloc[int(rejected.cumprod().sum()) - 1]
    bound = stats.beta.ppf(1 - delta, found.wrong + 1, found.accepted - found.wrong)
    rate, coverage = found.wrong / found.accepted, found.accepted / found.n
    return Region(float(found.threshold), float(coverage), float(rate), float(bound))
