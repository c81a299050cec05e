"""DeLong's variance against its definition and simulation."""

import numpy as np
import pytest
from scipy import stats

from mistakes.statistics import delong

# DeLong


def test_delong_agrees_with_its_definition(rng: np.random.Generator) -> None:
    f, s = rng.normal(0.7, 1, (3, 25)).round(1), rng.normal(0, 1, (3, 40)).round(1)  # with ties
    won = (f[:, :, None] > s[:, None]) + 0.5 * (f[:, :, None] == s[:, None])  # (k, m, n), all pairs
    v10, v01 = won.mean(2), won.mean(1)
    expected = np.cov(v10) / 25 + np.cov(v01) / 40
    auroc, covariance = delong.delong(f, s)
    assert auroc == pytest.approx(won.mean((1, 2)))
    assert covariance == pytest.approx(expected)


def test_delong_intervals_cover_and_p_is_uniform_under_the_null(rng: np.random.Generator) -> None:
    z, repetitions = [], 600
    for _ in range(repetitions):
        f, s = (
            rng.normal(m, 1, (1, n)) + rng.normal(0, 1, (2, n)) for m, n in ((1, 60), (0, 90))
        )  # equally good
        auroc, c = delong.delong(f, s)
        z.append((auroc[0] - auroc[1]) / np.sqrt(c[0, 0] + c[1, 1] - 2 * c[0, 1]))
    p = 2 * stats.norm.sf(np.abs(z))
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert abs((p > 0.05).mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / repetitions)
