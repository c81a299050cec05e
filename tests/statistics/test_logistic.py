"""Logistic regression against statsmodels."""

import numpy as np
import pytest
from scipy import stats

from mistakes.statistics import logistic


def test_likelihood_ratio_and_odds_agree_with_statsmodels(rng: np.random.Generator) -> None:
    import statsmodels.api as sm

    x, z = rng.normal(size=(2, 600))
    failed = rng.random(600) < 1 / (1 + np.exp(2 - x - 0.4 * z))
    less, more = (
        sm.Logit(failed, sm.add_constant(np.column_stack(c))).fit(disp=0)
        for c in ([x, x**2], [x, x**2, z])
    )
    found = logistic.added_value(failed, np.column_stack([x, x**2]), z, 0.9)
    assert found.p == pytest.approx(stats.chi2.sf(2 * (more.llf - less.llf), 1) / 2)
    assert found.odds_ratio == pytest.approx(np.exp(more.params[-1]))
    low, high = np.exp(more.conf_int(0.1)[-1])
    assert (found.odds_ratio_low, found.odds_ratio_high) == pytest.approx((low, high), rel=1e-3)
    assert logistic.added_value(failed, x[:, None], -z, 0.9).p > 0.95  # one-sided


def test_separation_and_dependence_end_in_honest_values(rng: np.random.Generator) -> None:
    x, failed = rng.normal(size=(2, 100)), np.arange(100) < 30
    separated = logistic.added_value(failed, np.empty((100, 0)), failed + 0.01 * x[1], 0.95)
    base = -30 * np.log(0.3) - 70 * np.log(
        0.7
    )  # of the constant alone; the supremum with the score is 0
    assert separated.odds_ratio is None
    assert separated.p == pytest.approx(stats.norm.sf(np.sqrt(2 * base)), rel=0.01)
    assert logistic.added_value(failed, x[0][:, None], 3 * x[0] + 1, 0.95) == logistic.Added(1.0)
    assert logistic.added_value(failed, x[0][:, None], np.full(100, 7.0), 0.95) == logistic.Added(
        1.0
    )


def test_the_spline_is_cubic_between_its_knots_and_linear_beyond(rng: np.random.Generator) -> None:
    x = np.linspace(0, 100, 1001)
    columns = logistic.restricted_cubic_spline(x)
    assert columns.shape == (1001, 4)
    second = np.diff(columns, 2, axis=0)
    outside = (x[1:-1] < 4.9) | (x[1:-1] > 95.1)
    assert np.abs(second[outside]).max() < 1e-9
    assert np.abs(second[~outside]).max() > 1e-4
    assert logistic.restricted_cubic_spline(np.repeat([1.0, 2.0], [9, 10])).shape == (19, 1)
