"""Effect sizes against brute force and simulation."""

import numpy as np
import pytest
from scipy import stats

from mistakes.statistics import effect_sizes

# effect sizes and power


@pytest.mark.parametrize("digits", [None, 1, 0])  # rounded: with ties
@pytest.mark.parametrize("window", [effect_sizes.WINDOW, 30])  # the small one forces the bisection
def test_hodges_lehmann_agrees_with_brute_force(
    digits, window, monkeypatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(effect_sizes, "WINDOW", window)
    f, s, d = rng.normal(1, 2, 40), rng.normal(0, 1, 75), rng.normal(0.5, 1, 60)
    if digits is not None:
        f, s, d = f.round(digits), s.round(digits), d.round(digits)
    pairs = np.sort((f[:, None] - s).ravel())
    shift, (low, high) = effect_sizes.hodges_lehmann(f, s, 0.95)
    c = int(40 * 75 / 2 - 1.959964 * np.sqrt(40 * 75 * 116 / 12))
    assert shift == pytest.approx(np.median(pairs), abs=1e-12)
    assert (low, high) == pytest.approx((pairs[c - 1], pairs[-c]), abs=1e-12)
    walsh = np.sort(((d[:, None] + d) / 2)[np.triu_indices(60)])
    shift, (low, high) = effect_sizes.hodges_lehmann_paired(d, 0.95)
    c = int(60 * 61 / 4 - 1.959964 * np.sqrt(60 * 61 * 121 / 24))
    assert shift == pytest.approx(np.median(walsh), abs=1e-12)
    assert (low, high) == pytest.approx((walsh[c - 1], walsh[-c]), abs=1e-12)


def test_hodges_lehmann_interval_holds_the_p_value_of_its_test_and_knows_its_limits(
    rng: np.random.Generator,
) -> None:
    f, s = rng.normal(0.5, 1, 60), rng.normal(0, 1, 90)
    _, (low, high) = effect_sizes.hodges_lehmann(f, s, 0.95)
    for bound, outside in ((low, -1e-6), (high, 1e-6)):
        test = stats.mannwhitneyu(f - bound - outside, s, method="asymptotic", use_continuity=False)
        assert test.pvalue == pytest.approx(0.05, abs=0.002)
    assert effect_sizes.hodges_lehmann(f[:2], s[:3], 0.95)[1] == (None, None)


def test_a12_within_strata_is_the_share_of_pairs_won_and_its_null_deviation_is_right(
    rng: np.random.Generator,
) -> None:
    f, s = rng.normal(0.3, 1, 30).round(1), rng.normal(0, 1, 80).round(1)
    of_f, of_s = rng.integers(0, 4, 30), rng.integers(1, 5, 80)
    parts = effect_sizes.parts_of(of_f, of_s)
    same = of_f[:, None] == of_s
    expected = ((f[:, None] > s) + 0.5 * (f[:, None] == s))[same].mean()
    found, low, high = effect_sizes.a12(f, s, parts, False, 500, 0.95, rng)
    assert found == pytest.approx(expected)
    assert low < found < high
    drawn = rng.normal(size=(4000, 110))
    won = (drawn[:, :30, None] > drawn[:, None, 30:])[:, same].mean(1)
    assert effect_sizes.a12_null_sd(30, 80, parts) == pytest.approx(won.std(), rel=0.05)
    assert effect_sizes.a12(f, s, [], False, 10, 0.95, rng) == (0.5, 0.0, 1.0)
    assert effect_sizes.a12_null_sd(30, 80, []) is None


def test_power_agrees_with_a_simulation(rng: np.random.Generator) -> None:
    shift = np.sqrt(2) * stats.norm.ppf(0.6)  # between normals with A12 = 0.6
    f, s = rng.normal(shift, 1, (2000, 60)), rng.normal(0, 1, (2000, 200))
    rejected = (stats.mannwhitneyu(f, s, alternative="greater", axis=1).pvalue <= 0.02).mean()
    sd = effect_sizes.a12_null_sd(60, 200, effect_sizes.WHOLE)
    assert effect_sizes.power(0.6, sd, 0.02) == pytest.approx(rejected, abs=0.04)
    assert effect_sizes.power(effect_sizes.detectable_a12(sd, 0.02), sd, 0.02) == pytest.approx(0.8)
    assert (
        effect_sizes.detectable_a12(effect_sizes.a12_null_sd(2, 2, effect_sizes.WHOLE), 0.02)
        is None
    )
