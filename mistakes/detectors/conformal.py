"""Conformal p-values: whatever the score, a bound on the false alarms of inputs drawn like the
calibration inputs.
"""

import numpy as np

from mistakes.artifacts import Array
from mistakes.errors import InputError


def p_values(calibration: Array, scores: Array) -> Array:
    """Return p = (1 + #{calibration >= s}) / (n + 1), float64, for each score s (higher = more
    anomalous).

    For an input exchangeable with the n calibration inputs P(p <= alpha) <= alpha (Vovk et al.
    2005); ties count against flagging, so the bound holds with them.
    """
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)


def require(
    alpha: float, calibration: int, where: str = "params.yaml", key: str = "detection.alpha"
) -> None:
    """Raise InputError where no p-value of ``calibration`` images can reach ``alpha``: nothing
    would be flagged.
    """
    if 1 / (calibration + 1) > alpha:
        least = int(np.ceil(1 / alpha)) - 1
        expected = (
            f"at least 1/{calibration + 1} with {calibration} calibration images ({least} images"
            " for this alpha)"
        )
        raise InputError(where, key, alpha, expected)
