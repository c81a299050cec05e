"""Resampling against enumeration, scipy and itself."""

import math

import numpy as np
import pytest
from scipy import stats

from mistakes.evaluation.hypotheses import Group
from mistakes.statistics import resampling


# resampling
def test_bootstrap_weights_do_not_depend_on_anything_but_seed_and_count_every_draw() -> None:
    parts = list(resampling.bootstrap_weights(50, 250, np.random.default_rng(3)))
    assert [part.shape for part in parts] == [(50, 100), (50, 100), (50, 50)]
    assert all((part.sum(0) == 50).all() for part in parts)


def group(
    scores: np.ndarray, classes: np.ndarray | None = None, msp: np.ndarray | None = None
) -> Group:
    nothing = np.zeros(len(scores))
    return Group(scores, nothing if classes is None else classes, nothing if msp is None else msp)


def test_one_stratum_agrees_with_scipy(rng: np.random.Generator) -> None:
    f, s = rng.normal(0.25, 1, 25), rng.normal(0, 1, 60)
    expected = stats.permutation_test(
        (f, s),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        vectorized=True,
        n_resamples=20_000,
        alternative="greater",
        rng=rng,
    )
    group = np.arange(85) < 25
    found = resampling.stratified_permutation(np.r_[f, s], group, np.zeros(85), 20_000, rng)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.pvalue == pytest.approx(expected.pvalue, abs=4 * np.sqrt(expected.pvalue / 20_000))


def test_exact_stratified_p_on_a_case_small_enough_to_enumerate() -> None:
    scores, group = np.array([3.0, 1.0, 0.0, 5.0, 4.0]), np.array([True, False, False, True, False])
    strata = np.array([0, 0, 0, 1, 1])  # 3 x 2 arrangements, the observed one is the only largest
    rng = np.random.default_rng(0)
    found = resampling.stratified_permutation(scores, group, strata, 60_000, rng)
    assert ((found.null >= found.statistic - 1e-9).sum() + 1) / 60_001 == found.pvalue
    assert found.pvalue == pytest.approx(1 / 6, abs=0.01)


def test_strata_without_both_groups_are_no_evidence(rng: np.random.Generator) -> None:
    group, strata = np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1])
    found = resampling.stratified_permutation(np.arange(4.0), group, strata, 9, rng)
    assert (found.statistic, found.pvalue) == (0.0, 1.0)


@pytest.mark.parametrize(("n", "size"), [(5, 2), (6, 3)])
def test_every_subset_is_drawn_equally_often(n: int, size: int, rng: np.random.Generator) -> None:
    drawn = np.sort(resampling._subsets(n, size, 60_000, rng), axis=1)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == math.comb(n, size)  # all of them, so none with a number twice
    assert stats.chisquare(counts).pvalue > 0.01
