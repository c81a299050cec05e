"""Intervals against scipy, and how estimates are written."""

import numpy as np
import pytest
from scipy import stats

from mistakes.statistics import intervals
from mistakes.statistics.intervals import Estimate


def test_proportions_have_clopper_and_pearson_s_interval() -> None:
    for k, n in ((0, 7), (3, 9), (9, 9)):
        found = intervals.proportion(np.arange(n) < k, 0.9)
        expected = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
        assert found == pytest.approx(Estimate(k / n, expected.low, expected.high))
    nothing = intervals.proportion(np.zeros(0, bool), 0.9)
    assert np.isnan(nothing.value)
    assert nothing[1:] == (0, 1)


def test_an_estimate_is_written_with_its_interval() -> None:
    estimate = Estimate(0.91234, 0.9, 0.95)
    assert f"{estimate:.2f}" == "0.91 (0.90 to 0.95)"
    assert estimate.columns("x") == {"x": 0.91234, "x_low": 0.9, "x_high": 0.95}


def test_percentiles_are_those_of_numpy(rng: np.random.Generator) -> None:
    drawn = rng.normal(size=500)
    expected = pytest.approx(np.quantile(drawn, [0.1, 0.9]))
    assert intervals.percentile(drawn, 0.8) == expected
