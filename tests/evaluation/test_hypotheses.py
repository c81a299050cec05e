"""The registered tests, their effect sizes and the negative controls against truth, brute force and
scipy.
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import ROOT, refused, run
from scipy import stats

from mistakes.config import params
from mistakes.errors import InputError
from mistakes.evaluation import families, hypotheses, negative_controls
from mistakes.evaluation.hypotheses import Group, Sample
from mistakes.statistics import effect_sizes, logistic, resampling, trend

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()


def group(
    scores: np.ndarray, classes: np.ndarray | None = None, msp: np.ndarray | None = None
) -> Group:
    nothing = np.zeros(len(scores))
    return Group(scores, nothing if classes is None else classes, nothing if msp is None else msp)


def split(failed: np.ndarray, scores: np.ndarray, classes: np.ndarray, msp: np.ndarray) -> Sample:
    return Sample(*(Group(scores[side], classes[side], msp[side]) for side in (failed, ~failed)))


def settings(seed: int, resamples: int = 199, bins: int = 8) -> hypotheses.Settings:
    return hypotheses.Settings(resamples, 2, 0.95, bins, seed)


# the null: for each kind of test, p-values of the registered and of the second test are uniform


def null_of_h1(rng: np.random.Generator) -> Sample:
    classes = np.repeat(
        [0, 1, 2], [30, 20, 10]
    )  # classes differ in density, and in how often they fail
    return split(
        rng.random(60) < 0.2 + 0.2 * classes, rng.normal(size=60) + classes, classes, np.zeros(60)
    )


def null_of_h2(rng: np.random.Generator) -> Sample:
    image = 3 * rng.normal(size=40)
    return Sample(group(image + rng.normal(size=40)), group(image + rng.normal(size=40)))


def null_of_h3(rng: np.random.Generator) -> Sample:
    return Sample(group(rng.exponential(size=20)), group(rng.exponential(size=50)))


def null_of_h4(rng: np.random.Generator) -> Sample:
    confidence = rng.choice([0.5, 0.7, 0.9, 0.95], 400)
    return split(
        rng.random(400) > confidence,
        rng.normal(size=400) - 4 * confidence,
        np.zeros(400),
        -confidence,
    )


def null_of_h5(rng: np.random.Generator) -> Sample:
    return split(rng.random(400) < 0.2, rng.normal(size=400), np.zeros(400), np.zeros(400))


@pytest.mark.parametrize(
    ("kind", "draw", "second"),
    [
        (
            "permutation_within_predicted_class",
            null_of_h1,
            False,
        ),  # its second test is not stratified
        ("permutation_paired", null_of_h2, True),
        ("permutation", null_of_h3, True),
        ("permutation_within_confidence_bins", null_of_h4, True),
        ("cochran_armitage", null_of_h5, True),
    ],
)
def test_p_values_are_uniform_under_the_null(
    kind: str, draw, second: bool, rng: np.random.Generator
) -> None:
    results = [
        hypotheses.test("H", "s", "f", kind, draw(rng), settings(seed)) for seed in range(500)
    ]
    p = np.array([result.p for result in results])
    if kind != "cochran_armitage":  # a Monte-Carlo p is a multiple of 1/200: make it continuous
        assert p == pytest.approx((200 * p).round() / 200)
        p = p - rng.uniform(0, 1 / 200, 500)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    if second:
        assert stats.kstest([result.p_second for result in results], "uniform").pvalue > 0.01


# the stratified test


def test_stratification_removes_a_planted_effect_of_class_composition(
    rng: np.random.Generator,
) -> None:
    strata = np.repeat([0, 1], 500)
    scores, group = (
        rng.normal(size=1000) + 2 * strata,
        rng.random(1000) < np.where(strata, 0.3, 0.05),
    )
    pooled = resampling.stratified_permutation(
        scores, group, np.zeros(1000), 999, np.random.default_rng(0)
    )
    stratified = resampling.stratified_permutation(
        scores, group, strata, 999, np.random.default_rng(0)
    )
    assert pooled.pvalue == 1 / 1000
    assert stratified.pvalue > 0.01


def test_the_effect_that_is_shown_is_that_of_what_is_tested(rng: np.random.Generator) -> None:
    """A class that is unlikely and often mistaken makes mistakes unlikely, though none is within
    its class.
    """
    classes = np.repeat([0, 1], 2000)
    failed, scores = (
        rng.random(4000) < np.where(classes, 0.3, 0.05),
        rng.normal(size=4000) + 2 * classes,
    )
    sample = split(failed, scores, classes, np.zeros(4000))
    within = hypotheses.test(
        "H1", "s", "f", "permutation_within_predicted_class", sample, settings(0)
    )
    pooled = hypotheses.test("H1", "s", "f", "permutation", sample, settings(0))
    assert abs(within.a12 - 0.5) < 4 * within.a12_null_sd
    assert pooled.a12 > 0.6


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


# H4: added value


def confident(rng: np.random.Generator, adds: float) -> Sample:
    """Return images whose log-density is a noisy copy of the confidence, plus ``adds`` where the
    image is a mistake.
    """
    logit = rng.normal(2.5, 1.5, 4000)
    failed = rng.random(4000) > 1 / (1 + np.exp(-logit))
    msp = -1 / (1 + np.exp(-logit))
    return split(failed, rng.normal(size=4000) - 0.7 * logit + adds * failed, np.zeros(4000), msp)


def test_a_noisy_copy_of_the_confidence_adds_nothing_though_it_finds_mistakes(
    rng: np.random.Generator,
) -> None:
    results = [
        hypotheses.test(
            "H4",
            "s",
            "f",
            "permutation_within_confidence_bins",
            confident(rng, 0),
            settings(seed, 99, 50),
        )
        for seed in range(60)
    ]
    for p in ([r.p for r in results], [r.p_second for r in results]):
        assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean([r.a12 for r in results]) == pytest.approx(0.5, abs=0.01)
    plain = hypotheses.test("H1", "s", "f", "permutation", confident(rng, 0), settings(0))
    assert plain.a12 > 0.65
    assert plain.p == 1 / 200


def test_density_that_adds_to_the_confidence_is_found(rng: np.random.Generator) -> None:
    found = hypotheses.test(
        "H4",
        "s",
        "f",
        "permutation_within_confidence_bins",
        confident(rng, 0.5),
        settings(0, 199, 50),
    )
    assert found.p == 1 / 200
    assert found.p_second < 1e-6
    assert found.difference == pytest.approx(0.5, abs=0.15)
    assert found.odds_ratio_low > 1
    assert found.odds_ratio_low < found.odds_ratio < found.odds_ratio_high
    assert found.hodges_lehmann is None


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


# H5: trend


def test_trend_agrees_with_the_closed_form_of_cochran_and_armitage(
    rng: np.random.Generator,
) -> None:
    scores = rng.normal(size=500)
    failed = rng.random(500) < 1 / (1 + np.exp(1 - 0.5 * scores))
    counts = trend.by_decile(scores, failed)
    assert counts.sum(1).tolist() == [50] * 10
    n, t, rate = counts.sum(1), np.arange(10), failed.mean()
    deviation = (t * (counts[:, 1] - n * rate)).sum()
    z = deviation / np.sqrt(rate * (1 - rate) * ((n * t**2).sum() - (n * t).sum() ** 2 / 500))
    # statsmodels takes the variance of a permutation: n - 1 in place of n
    assert trend.cochran_armitage(scores, failed) == pytest.approx(
        stats.norm.sf(z * np.sqrt(499 / 500))
    )
    assert trend.cochran_armitage(-scores, failed) > 0.99
    ratio = trend.rate_ratio(scores, failed, 0.95)
    assert ratio["rate_ratio"] == pytest.approx(counts[-1, 1] / counts[0, 1])
    assert ratio["rate_ratio_low"] < ratio["rate_ratio"] < ratio["rate_ratio_high"]


def test_trend_without_failures_below_or_with_ties_is_honest() -> None:
    scores, failed = np.arange(100.0), np.arange(100) > 60
    found = trend.rate_ratio(scores, failed, 0.95)
    assert found["rate_ratio"] is None
    assert 1 < found["rate_ratio_low"] < found["rate_ratio_high"] < np.inf
    assert trend.cochran_armitage(np.zeros(100), failed) == 1
    assert trend.quantile_bins(np.r_[np.zeros(60), np.arange(1, 41)], 10).tolist()[:60] == [0] * 60


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


def test_table_has_no_nan_and_families_share_alpha(rng: np.random.Generator) -> None:
    one = hypotheses.test("H3", "s", "f", "permutation", null_of_h3(rng), settings(0))
    few = hypotheses.test(
        "H1", "s", "f", "permutation", Sample(group(np.ones(1)), group(np.ones(9))), settings(0)
    )
    table = families.adjusted([one, few], 0.05, 0.56)
    first, second = json.loads(json.dumps(table.to_dict("records"), allow_nan=False))
    assert first["power"] == pytest.approx(effect_sizes.power(0.56, one.a12_null_sd, 0.025))
    assert first["cliffs_delta"] == pytest.approx(2 * one.a12 - 1)
    assert (second["p"], second["a12_low"], second["a12_high"], second["power"]) == (1, 0, 1, None)
    assert families.markdown(table).count("\n") == 4


# controls


def test_controls_pass_on_independent_labels_and_fail_where_something_is_wrong(
    rng: np.random.Generator,
) -> None:
    sample = null_of_h5(rng)
    scores = sample.successes.scores
    found = negative_controls.all_of(
        sample, scores - 1, negative_controls.Settings(200, 99, 200, 0.01, 0)
    )
    assert [c.control for c in found] == [
        "id_halves",
        "random_score",
        "shuffled_correctness",
        "train_against_test",
    ]
    assert [c.passed for c in found] == [True, True, True, None]
    assert found[3].difference == pytest.approx(1)
    assert found[3].low > 0.6
    assert found == negative_controls.all_of(
        sample, scores - 1, negative_controls.Settings(200, 99, 200, 0.01, 0)
    )
    broken = negative_controls._uniform(
        "broken",
        9,
        9,
        lambda rng: rng.random() ** 2,
        negative_controls.Settings(200, 9, 9, 0.01, 0),
    )
    assert broken.passed is False
    assert broken.low > 0.05
    nobody = negative_controls.all_of(
        Sample(group(scores[:0]), sample.successes),
        scores,
        negative_controls.Settings(20, 9, 20, 0.01, 0),
    )
    assert nobody[2].passed is None


def scores_table(rng: np.random.Generator) -> pd.DataFrame:
    n = 300
    common = {"set": "test", "index": np.arange(n), "label": 0, "prediction": rng.integers(0, 2, n)}
    msp, correct = -rng.uniform(0.5, 1, n), rng.random(n) < 0.8
    test = pd.DataFrame(
        {
            "origin": "id",
            **common,
            "correct": correct,
            "nll": rng.normal(size=n),
            "msp": msp,
            "p_nll": 0.5,
            "p_msp": 0.5,
            "reason": "density",
            "map_1": 0.0,
            "map_2": 0.0,
        }
    )
    hit = test[test["correct"]].iloc[:50].assign(origin="adversarial", set="pgd", correct=False)
    far = test.iloc[:60].assign(origin="ood", set="noise", correct=False)
    fit = test.assign(origin="fit", set="fit", correct=True)
    return pd.concat([test, hit.assign(nll=hit["nll"] + 1), far, fit], ignore_index=True)


def test_stage_writes_every_row_and_asks_for_training_images(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    (tmp_path / "params.yaml").write_text(SMOKE)
    table = scores_table(rng)
    table.to_parquet(tmp_path / "scores.parquet")
    texts = []
    for out in ("a", "b"):
        done = run(tmp_path, "hypotheses", "scores.parquet", f"data/hypotheses/{out}")
        assert done.returncode == 0, done.stderr
        texts.append(
            {
                path.name: path.read_bytes()
                for path in (tmp_path / "data/hypotheses" / out).iterdir()
            }
        )
    assert texts[0] == texts[1]
    assert texts[0].keys() == {
        "hypotheses.json",
        "controls.json",
        "hypotheses.md",
        "metrics.json",
        "warnings.json",
    }
    rows = json.loads(texts[0]["hypotheses.json"])
    assert [(row["hypothesis"], row["set"]) for row in rows] == [
        ("H1", "test"),
        ("H2", "pgd"),
        ("H3", "noise"),
        ("H4", "test"),
        ("H5", "test"),
    ]
    assert rows[1]["hodges_lehmann"] == pytest.approx(1)
    metrics = json.loads(texts[0]["metrics.json"])
    assert metrics["H5.test.p"] == rows[4]["p"]
    assert (
        metrics["control.random_score.value"] == json.loads(texts[0]["controls.json"])[1]["value"]
    )
    table[table["origin"] != "fit"].to_parquet(tmp_path / "scores.parquet")
    done = run(tmp_path, "hypotheses", "scores.parquet", "data/hypotheses/c")
    refused(done, "scores.parquet", "column origin", "of fit")


KINDS = [
    "permutation",
    "permutation_paired",
    "permutation_within_predicted_class",
    "permutation_within_confidence_bins",
    "cochran_armitage",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 60])
def test_scores_that_all_tie_are_no_evidence(kind: str, n: int) -> None:
    side = group(np.full(n, 7.0), msp=np.full(n, -1.0))
    other = side if kind == "permutation_paired" else group(np.full(80, 7.0), msp=np.full(80, -1.0))
    found = hypotheses.test("H", "s", "f", kind, Sample(side, other), settings(0))
    (row,) = families.adjusted([found], 0.05, 0.56).to_dict("records")
    json.dumps(row, allow_nan=False)
    assert (row["n"], row["p"], row["p_second"], row["a12"]) == (n, 1, 1, 0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 90), (90, 2)])
def test_two_on_a_side_are_tested(kind: str, m: int, n: int, rng: np.random.Generator) -> None:
    if kind == "permutation_paired":
        m = n = min(m, n)
    sides = [
        Group(rng.normal(size=k), rng.integers(0, 2, k), -rng.uniform(0.5, 1, k)) for k in (m, n)
    ]
    found = hypotheses.test("H", "s", "f", kind, Sample(*sides), settings(0))
    (row,) = families.adjusted([found], 0.05, 0.56).to_dict("records")
    json.dumps(row, allow_nan=False)
    assert 0 < row["p"] <= 1
    assert 0 < row["p_second"] <= 1


def test_nothing_to_test_is_an_empty_table() -> None:
    none = families.adjusted([], 0.05, 0.56)
    assert none.to_dict("records") == []
    assert families.markdown(none).count("\n") == 2


@pytest.mark.parametrize("n", [0, 1, 2])
def test_controls_of_few_are_finite(n: int, rng: np.random.Generator) -> None:
    one, many = group(rng.normal(size=n)), group(rng.normal(size=40))
    for failures, successes, train in (
        (one, many, 40),
        (many, group(many.scores[:2]), n),
        (one, group(np.ones(40)), 9),
    ):
        found = negative_controls.all_of(
            Sample(failures, successes),
            np.ones(train),
            negative_controls.Settings(20, 19, 20, 0.01, 0),
        )
        json.dumps([vars(control) for control in found], allow_nan=False)


def test_pairs_are_refused_where_there_are_none() -> None:
    old = "{failure: ood, density: lower, test: permutation,"
    with pytest.raises(
        InputError, match="hypotheses.registered.H3 .*permutation_paired for adversarial only"
    ):
        params.parse(SMOKE.replace(old, old.replace("permutation,", "permutation_paired,")))


@pytest.mark.parametrize("kind", [kind for kind in hypotheses.TESTS if kind != "cochran_armitage"])
def test_a_result_carries_its_null_distribution(kind: str, rng: np.random.Generator) -> None:
    scores = rng.normal(size=60)
    groups = [
        Group(part, np.zeros(30), -rng.uniform(0.5, 1, 30)) for part in (scores[:30], scores[30:])
    ]
    settings = hypotheses.Settings(199, 20, 0.95, 2, 0)
    found = hypotheses.TESTS[kind](Sample(*groups), settings, rng)
    assert found.null is not None
    assert found.null.shape == (199,)
    assert ((found.null >= found.difference - 1e-9).sum() + 1) / 200 == pytest.approx(found.p)
