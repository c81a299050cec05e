"""Estimates with their intervals."""

from typing import NamedTuple

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from mistakes.artifacts import Array


class Estimate(NamedTuple):
    """A number and the interval around it.

    Examples
    --------
    >>> f"{Estimate(0.9123, 0.9, 0.9244):.3f}"
    '0.912 (0.900 to 0.924)'
    >>> Estimate(0.5, 0.4, 0.6).columns("auroc")
    {'auroc': 0.5, 'auroc_low': 0.4, 'auroc_high': 0.6}
    """

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """Return "value (low to high)", each number in the format ``form``."""
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    def columns(self, name: str) -> dict[str, float]:
        """Return the three numbers as the columns ``name``, ``name_low`` and ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def proportion(hits: Array, confidence_level: float) -> Estimate:
    """Return the rate of true values in ``hits``, bool (n,), with Clopper and Pearson's interval.

    The rate of nothing is NaN, between 0 and 1.

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", 1934.

    Examples
    --------
    >>> f"{proportion(np.array([True, False, False, False]), 0.95):.2f}"
    '0.25 (0.01 to 0.81)'
    """
    k, n = int(hits.sum()), len(hits)
    if n == 0:
        return Estimate(np.nan, 0.0, 1.0)
    low, high = proportion_confint(k, n, alpha=1 - confidence_level, method="beta")
    return Estimate(k / n, float(low), float(high))


def percentile(resampled: Array, confidence_level: float) -> tuple[float, float]:
    """Return the percentile interval of resampled values (b,).

    Examples
    --------
    >>> percentile(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
