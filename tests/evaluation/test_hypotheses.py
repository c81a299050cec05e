"""The registered tests, their effect sizes and the negative controls against truth, brute force and
scipy.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import ROOT, refused, run
from samples import group, null_of_h5, split
from scipy import stats

from mistakes.config import params
from mistakes.errors import InputError
from mistakes.evaluation import families, hypotheses
from mistakes.evaluation.hypotheses import Group, Sample
from mistakes.statistics import resampling

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()


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
        ("permutation_matched_on_confidence", null_of_h4, True),
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


# H4: added value


def confident(rng: np.random.Generator, adds: float) -> Sample:
    """Return images whose log-density is a noisy copy of the confidence, plus ``adds`` where the
    image is a mistake.
    """
    logit = rng.normal(2.5, 1.5, 4000)
    failed = rng.random(4000) > 1 / (1 + np.exp(-logit))
    msp = -1 / (1 + np.exp(-logit))
    return split(failed, rng.normal(size=4000) - 0.7 * logit + adds * failed, np.zeros(4000), msp)


@pytest.mark.parametrize(
    "kind", ["permutation_within_confidence_bins", "permutation_matched_on_confidence"]
)
def test_a_noisy_copy_of_the_confidence_adds_nothing_though_it_finds_mistakes(
    kind: str,
    rng: np.random.Generator,
) -> None:
    results = [
        hypotheses.test(
            "H4",
            "s",
            "f",
            kind,
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


@pytest.mark.slow
def test_matching_on_confidence_holds_its_level_where_wide_bins_do_not() -> None:
    """500 true nulls: few errors, which the confidence tells, and a density that follows it."""
    rng = np.random.default_rng(0)

    def rejected(kind: str, times: int) -> float:
        draws = [(followed(rng), settings(seed, 199, 10)) for seed in range(times)]
        p = [hypotheses.TESTS[kind](one, s, rng).p for one, s in draws]
        return float(np.mean(np.array(p) <= 0.05))

    assert 0.036 <= rejected("permutation_matched_on_confidence", 500) <= 0.066
    assert rejected("permutation_within_confidence_bins", 100) > 0.1


def followed(rng: np.random.Generator) -> Sample:
    logit = rng.normal(3, 2, 1500)
    failed = rng.random(1500) > 1 / (1 + np.exp(-logit))
    msp = -1 / (1 + np.exp(-logit))
    return split(failed, rng.normal(size=1500) - logit, np.zeros(1500), msp)


@pytest.mark.parametrize(
    "kind", ["permutation_within_confidence_bins", "permutation_matched_on_confidence"]
)
def test_density_that_adds_to_the_confidence_is_found(kind: str, rng: np.random.Generator) -> None:
    found = hypotheses.test(
        "H4",
        "s",
        "f",
        kind,
        confident(rng, 0.5),
        settings(0, 199, 50),
    )
    assert found.p == 1 / 200
    assert found.p_second < 1e-6
    assert found.difference == pytest.approx(0.5, abs=0.15)
    assert found.odds_ratio_low > 1
    assert found.odds_ratio_low < found.odds_ratio < found.odds_ratio_high
    assert found.hodges_lehmann is None


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
        ("H4_bins", "test"),
    ]
    assert rows[1]["hodges_lehmann"] == pytest.approx(1)
    metrics = json.loads(texts[0]["metrics.json"])
    assert metrics["H5.p_holm"] == rows[4]["p_holm"]
    assert metrics["H2.a12"] == rows[1]["a12"]
    assert len(metrics) == 10
    table[table["origin"] != "fit"].to_parquet(tmp_path / "scores.parquet")
    done = run(tmp_path, "hypotheses", "scores.parquet", "data/hypotheses/c")
    refused(done, "scores.parquet", "column origin", "of fit")


KINDS = [
    "permutation",
    "permutation_paired",
    "permutation_within_predicted_class",
    "permutation_matched_on_confidence",
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
