"""Nested logistic regressions: does a score say more about failure than what is known already?"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mistakes.artifacts import Array

# quantiles; Harrell, Regression Modeling Strategies (2015), table 2.3
KNOTS = (
    0.05,
    0.275,
    0.5,
    0.725,
    0.95,
)


@dataclass(frozen=True)
class Added:
    """What a score adds to the odds of failure; None where there is no finite estimate."""

    p: float  # one-sided: a higher score, higher odds
    odds_ratio: float | None = None  # per unit of the score
    odds_ratio_low: float | None = None
    odds_ratio_high: float | None = None


def added_value(failed: Array, known: Array, score: Array, confidence_level: float) -> Added:
    """Test by likelihood ratio whether ``score`` (n,) adds to ``known`` (n, k) in a logistic
    regression of ``failed``.

    The signed root of the statistic is standard normal under the null; the interval of the odds
    ratio is Wald's. Where the two sides separate perfectly, the likelihood still has a supremum, so
    p stands, but no odds ratio does. Where ``score`` is a linear function of what is known, it adds
    nothing: p is 1.
    """
    # only the space that the columns span matters, so they are replaced by well-conditioned ones
    # that span the same
    u, sizes, _ = np.linalg.svd(
        _standard(np.column_stack([np.ones(len(failed)), known])), full_matrices=False
    )
    base = u[:, sizes > 1e-8 * sizes[0]] * np.sqrt(len(failed))
    # the coefficient of the rest is that of the score
    rest = score - base @ (base.T @ score) / len(failed)
    scale = float(rest.std())
    if scale <= 1e-8 * float(np.abs(score).max()):
        return Added(1.0)
    less, _, _, _ = _fit(failed, base)
    more, slope, error, converged = _fit(failed, np.column_stack([base, rest / scale]))
    p = float(stats.norm.sf(np.sign(slope) * np.sqrt(2 * max(0.0, more - less))))
    if not converged:
        return Added(p)
    reach = float(stats.norm.isf((1 - confidence_level) / 2)) * error
    with np.errstate(over="ignore"):
        odds = [float(np.exp(value / scale)) for value in (slope, slope - reach, slope + reach)]
    return Added(p, *(value if np.isfinite(value) else None for value in odds))


def restricted_cubic_spline(x: Array) -> Array:
    """Return (n, k - 1): x and k - 2 cubic terms, linear beyond the outermost of k knots (Harrell
    2015, eq. 2.25).

    Knots are the quantiles KNOTS of x (n,), those that coincide once; with fewer than 3, x alone.

    Examples
    --------
    >>> restricted_cubic_spline(np.linspace(0, 1, 50)).shape
    (50, 4)
    """
    t = np.unique(np.quantile(x, KNOTS))
    if len(t) < 3:
        return x[:, None]
    cube = np.maximum(x[:, None] - t, 0) ** 3 / (t[-1] - t[0]) ** 2
    before, last = cube[:, -2:-1], cube[:, -1:]
    terms = (
        cube[:, :-2]
        - before * (t[-1] - t[:-2]) / (t[-1] - t[-2])
        + last * (t[-2] - t[:-2]) / (t[-1] - t[-2])
    )
    return np.column_stack([x, terms])


def _standard(columns: Array) -> Array:
    """Return columns (n, k) with deviation 1, those that are constant with 1 everywhere."""
    spread = columns.std(axis=0)
    constant = spread <= 1e-12 * np.abs(columns).max(axis=0)
    columns = (columns - columns.mean(axis=0)) / np.where(constant, 1, spread)
    return np.where(constant, 1, columns)


def _fit(failed: Array, columns: Array) -> tuple[float, float, float, bool]:
    """Return the log-likelihood, the last coefficient, its standard error, and whether these are
    finite estimates.
    """
    from statsmodels.discrete.discrete_model import Logit

    model = Logit(failed.astype(float), columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            fitted = model.fit(disp=0, maxiter=100)
            return float(fitted.llf), float(fitted.params[-1]), float(fitted.bse[-1]), True
        except (Warning, np.linalg.LinAlgError):
            # separated: approach the supremum, which the coefficients never reach
            warnings.simplefilter("ignore")
            fitted = model.fit(disp=0, maxiter=1000, method="bfgs", skip_hessian=True)
            return float(fitted.llf), float(fitted.params[-1]), float("inf"), False
