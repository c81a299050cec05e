"""Conformal p-values: whatever the score, a bound on the false alarms of inputs drawn like the
calibration inputs.
"""

import numpy as np
from scipy import stats

from mistakes.artifacts import Array
from mistakes.errors import ArgumentError


def p_values(calibration: Array, scores: Array) -> Array:
    """Return p = (1 + #{calibration >= s}) / (n + 1), float64, for each score s (higher = more
    anomalous).

    For an input exchangeable with the n calibration inputs P(p <= alpha) <= alpha (Vovk et al.
    2005); ties count against flagging, so the bound holds with them.

    Examples
    --------
    >>> p_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5, 9.0])).tolist()
    [1.0, 0.5, 0.25]
    """
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)


def discoveries(p: Array, fdr: float) -> Array:
    """Return which of many inputs are flagged, bool (n,), by Benjamini and Hochberg (1995).

    p : conformal p-values (n,) of one calibration set, which depend on each other in the way that
    the procedure allows (Bates et al. 2023, Testing for outliers with conformal p-values, theorem
    2): of the flagged inputs at most a share ``fdr``, on average, is drawn like the calibration
    inputs. Raises ArgumentError where ``fdr`` is no share.

    Examples
    --------
    >>> discoveries(np.array([0.001, 0.02, 0.5, 0.9]), fdr=0.05).tolist()
    [True, True, False, False]
    """
    if not 0 < fdr < 1:
        raise ArgumentError("fdr", fdr, "more than 0 and less than 1")
    return np.asarray(stats.false_discovery_control(p, method="bh") <= fdr)


def check_attainable(alpha: float, calibration: int, argument: str = "alpha") -> None:
    """Raise ArgumentError where no p-value of ``calibration`` images can reach ``alpha``.

    Nothing would ever be flagged: the smallest p-value is 1 / (calibration + 1).

    Examples
    --------
    >>> check_attainable(0.05, 19)
    >>> check_attainable(0.05, 18)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    mistakes.errors.ArgumentError: alpha is 0.05, expected at least 1/19 with 18 calibration ...
    """
    if 1 / (calibration + 1) > alpha:
        least = int(np.ceil(1 / alpha)) - 1
        expected = (
            f"at least 1/{calibration + 1} with {calibration} calibration images ({least} images"
            " for this alpha)"
        )
        raise ArgumentError(argument, alpha, expected)
