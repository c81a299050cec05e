"""Risk and coverage: what is left to err when the most anomalous inputs are refused.

Risk is the share of failures (loss 0 or 1) among accepted inputs; coverage is the share of inputs
accepted. Inputs are accepted in ascending order of their score.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import xlog1py

from mistakes.artifacts import Array


@dataclass(frozen=True)
class Areas:
    """Areas under risk-coverage curves; lower is better."""

    aurc: float
    e_aurc: float
    augrc: float


def areas(scores: Array, failures: Array, weights: Array) -> Areas:
    """Return the areas of scores (n,), failures bool (n,) under positive weights (n,), whose sum
    does not matter.

    aurc : integral over coverage c of the selective risk E(c) / c, E(c) the weight of accepted
    failures. e_aurc : aurc minus that of the best order, r + (1 - r) ln(1 - r) for a share r of
    failures (Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural
    classifiers", 2019). augrc : integral of E(c), the generalised risk (Traub et al., "Overcoming
    common flaws in the evaluation of selective classification systems", 2024).

    Among equal scores E grows in proportion to c, the expected value over all orders, also within
    one input. The integrals over such a piece are in closed form, so a weight of 2 is exactly two
    copies. (fd-shifts calls this non-linear interpolation; torch-uncertainty sums over inputs,
    which is the limit of many inputs.)

    Examples
    --------
    >>> scores, failures = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, False, True])
    >>> areas(scores, failures, np.ones(4)).augrc
    0.03125
    """
    _, group = np.unique(scores, return_inverse=True)
    share = weights / weights.sum()
    width = np.bincount(group, share)  # the coverage that each distinct score adds
    lost = np.bincount(group, share * failures)
    coverage, error = np.cumsum(width), np.cumsum(lost)
    before, error_before = np.r_[0.0, coverage[:-1]], np.r_[0.0, error[:-1]]
    risk = lost / width
    # integral of (E0 + risk (c - c0)) / c from c0 to c1; the first piece starts at E0 = c0 = 0
    logs = np.log1p(width[1:] / before[1:])
    aurc = lost.sum() + ((error_before - risk * before)[1:] * logs).sum()
    r = error[-1]
    augrc = (width * (error_before + error) / 2).sum()
    return Areas(float(aurc), float(aurc - (r + xlog1py(1 - r, -r))), float(augrc))
