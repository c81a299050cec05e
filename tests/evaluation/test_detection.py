"""Detection against second implementations, published identities and simulation."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from score_tables import SCORES, SETTINGS
from sklearn.metrics import roc_auc_score

from mistakes.evaluation import (
    detection,
    differences,
    mixtures,
    operating_point,
    repeated_runs,
    score_table,
)
from mistakes.statistics import intervals


def test_groups_are_means_of_their_sets_with_intervals_of_the_same_resamples(evaluation) -> None:
    groups = {"all": ["near", "far", "absent"], "one": ["near"], "none": ["absent"]}
    rows = detection.of_groups(evaluation, groups, 0.95).set_index(["group", "score"])
    assert set(rows.index) == {(group, score) for group in ("all", "one") for score in SCORES}
    ood = evaluation.sets.query("cause == 'ood'").set_index(["set", "score"])
    for score in SCORES:
        whole, one = rows.loc["all", score], rows.loc["one", score]
        assert whole["sets"] == "near far"
        mean = (ood.loc[("near", score), "auroc"] + ood.loc[("far", score), "auroc"]) / 2
        assert whole["auroc"] == pytest.approx(mean)
        assert one["auroc_low"] == pytest.approx(ood.loc[("near", score), "auroc_low"])
        expected = intervals.percentile(evaluation.resampled[score]["ood"], 0.95)
        assert (whole["auroc_low"], whole["auroc_high"]) == pytest.approx(expected)


def test_evaluation_agrees_with_plain_formulas_and_skips_what_is_no_failure(
    table, evaluation
) -> None:
    found = evaluation.sets.set_index(["cause", "set", "score"])
    assert list(dict.fromkeys(found.index.droplevel("score"))) == [
        ("mistakes", "test"),
        ("adversarial", "a"),
        ("adversarial", "b"),
        ("ood", "far"),
        ("ood", "near"),
    ]
    s = table.query("origin == 'id' and correct")["msp"]
    f = table.query("set == 'b' and not correct")["msp"]
    row = found.loc[("adversarial", "b", "msp")]
    assert row["n"] == len(f) < 60
    assert row["auroc"] == pytest.approx(
        roc_auc_score(np.r_[np.ones(len(f)), np.zeros(len(s))], np.r_[f, s])
    )
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    heat = detection.heat(evaluation.sets).set_index(["score", "cause"])["auroc"]
    macro = evaluation.macro.set_index("score")
    for score in SCORES:
        assert heat[score].mean() == pytest.approx(macro.loc[score, "macro_auroc"])
        assert heat[score, "ood"] == pytest.approx(macro.loc[score, "auroc_ood"])


def test_an_image_is_resampled_with_all_that_comes_of_it(table) -> None:
    """A second attack, or a second training, that gives the same outputs on the same images is no
    new evidence.
    """
    attack = table.query("set == 'b'")
    twice = detection.evaluate(
        pd.concat([table, attack.assign(set="c")], ignore_index=True), SCORES, SETTINGS
    )
    once = detection.evaluate(table.query("set != 'a'"), SCORES, SETTINGS)
    both = detection.evaluate(
        pd.concat([table.query("set != 'a'"), attack.assign(set="c")]), SCORES, SETTINGS
    )
    assert both.resampled["msp"]["adversarial"] == pytest.approx(
        once.resampled["msp"]["adversarial"]
    )
    assert (
        twice.sets.query("set == 'b'")["auroc_low"].tolist()
        == twice.sets.query("set == 'c'")["auroc_low"].tolist()
    )
    runs = repeated_runs.across({"x": table, "y": table, "z": table}, SCORES, SETTINGS).set_index(
        "score"
    )
    alone = detection.evaluate(table, SCORES, SETTINGS).macro.set_index("score")
    for bound in ("", "_low", "_high"):
        assert runs[f"macro{bound}"][list(SCORES)].tolist() == pytest.approx(
            alone[f"macro_auroc{bound}"][list(SCORES)].tolist()
        )


def test_intervals_cover_as_often_as_stated(rng: np.random.Generator) -> None:
    """AUROC of right against wrong answers, and its mean over two attacks on the same images, in
    fresh samples.
    """
    settings, covered, repetitions = (
        replace(SETTINGS, bootstrap=200, confidence_level=0.9),
        np.zeros(2),
        250,
    )
    truth = stats.norm.cdf(1 / np.sqrt(2))  # of scores one standard deviation apart
    for _ in range(repetitions):
        n, m = 200, 60
        wrong = rng.random(n) < 0.3
        own = rng.normal(size=m)  # of an attacked image, whatever the attack
        attacks = [own * 0.8 + 0.6 * rng.normal(size=m) + 1 for _ in range(2)]
        clean = pd.DataFrame(
            {
                "origin": "id",
                "set": "test",
                "index": np.arange(n),
                "correct": ~wrong,
                "x": wrong + rng.normal(size=n),
                "p_x": 0.5,
            }
        )
        parts = [clean] + [
            pd.DataFrame(
                {
                    "origin": "adversarial",
                    "set": str(i),
                    "index": np.arange(m),
                    "correct": False,
                    "x": x,
                    "p_x": 0.5,
                }
            )
            for i, x in enumerate(attacks)
        ]
        found = detection.evaluate(pd.concat(parts), ("x",), settings).resampled["x"]
        for place, cause in enumerate(("mistakes", "adversarial")):
            low, high = intervals.percentile(found[cause], 0.9)
            covered[place] += low <= truth <= high
    assert np.abs(covered / repetitions - 0.9).max() < 0.06


# few failures


def with_failures(table: pd.DataFrame, origin: str, name: str, number: int) -> pd.DataFrame:
    """Return the table with ``number`` failures left in a set; the others there are successes, or
    OOD inputs gone.
    """
    here = (table["origin"] == origin) & (table["set"] == name)
    failed = table.index[here & ~table["correct"]]
    if origin == "ood":
        return table.drop(failed[number:])
    return table.assign(
        correct=table["correct"].mask(table.index.isin(failed[number:]), True).astype(bool)
    )


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize(
    ("origin", "name", "words"),
    [
        ("id", "test", "the test images"),
        ("adversarial", "b", "the attack b"),
        ("ood", "near", "the OOD set near"),
    ],
)
def test_a_set_with_few_failures_is_in_every_table_or_in_none_and_said(
    table, origin, name, words, number
) -> None:
    few = with_failures(table, origin, name, number)
    found = detection.evaluate(few, SCORES, SETTINGS)
    key, shown = (
        ("mistakes" if origin == "id" else origin, name),
        number >= score_table.MIN_FAILURES,
    )
    for part in (
        found.sets,
        differences.differences(few, found, SETTINGS),
        operating_point.flagged(few, SCORES, [0.1], 0.95),
    ):
        assert (key in set(zip(part["cause"], part["set"], strict=True))) == shown
    assert (
        ("mistakes" if origin == "id" else name) in set(detection.histograms(few)["group"])
    ) == shown
    causes = {"mistakes", "adversarial", "ood"} - (
        {"mistakes"} if origin == "id" and not shown else set()
    )
    assert set(detection.roc_curves(few, "msp")["cause"]) == causes
    said = score_table.left_out(few)
    if shown or (
        origin == "ood" and not number
    ):  # of an OOD set without an image there is no row at all
        assert said == []
    else:
        assert len(said) == 1
        assert said[0].startswith(f"{words} gave {number} failure")
    mixed = mixtures.mixtures(few, SCORES, {"ten": 0.1}, 0.1)
    assert np.isfinite(mixed.drop(columns=["mixture", "score", "precision"]).to_numpy(float)).all()


def test_without_a_set_that_can_be_evaluated_every_table_is_empty_with_its_columns(
    table, evaluation
) -> None:
    clean = table.query("origin == 'id'").assign(correct=True)
    found = detection.evaluate(clean, SCORES, SETTINGS)
    assert found.sets.empty
    assert set(found.sets) == set(evaluation.sets)
    assert found.macro["macro_auroc"].isna().all()
    assert found.macro["score"].tolist() == list(SCORES)
    pairs = [
        (
            differences.differences(clean, found, SETTINGS),
            differences.differences(table, evaluation, SETTINGS),
        ),
        (
            operating_point.flagged(clean, SCORES, [0.1], 0.95),
            operating_point.flagged(table, SCORES, [0.1], 0.95),
        ),
        (
            mixtures.mixtures(clean, SCORES, {"a": 0.0}, 0.1),
            mixtures.mixtures(table, SCORES, {"a": 0.0}, 0.1),
        ),
        (detection.roc_curves(clean, "msp"), detection.roc_curves(table, "msp")),
        (detection.heat(found.sets), detection.heat(evaluation.sets)),
    ]
    for empty, full in pairs:
        assert empty.empty
        assert list(empty) == list(full)
    assert set(detection.histograms(clean)["group"]) == {"correct"}
    mean = repeated_runs.across({"x": clean, "y": clean}, SCORES, SETTINGS)
    assert set(mean["score"]) == set(SCORES)
    assert "nan" not in repeated_runs.markdown(mean, 2, 0.95)


def test_scores_that_all_tie_tell_nothing_and_are_finite(table) -> None:
    tied = table.assign(**dict.fromkeys([*SCORES, *(f"p_{score}" for score in SCORES)], 0.5))
    found = detection.evaluate(tied, SCORES, SETTINGS)
    assert (found.sets[["auroc", "auroc_low", "auroc_high"]] == 0.5).all(axis=None)
    assert (differences.differences(tied, found, SETTINGS)["difference"] == 0).all()
    assert np.isfinite(detection.histograms(tied)["share"]).all()
    assert detection.histograms(tied).groupby("group")["share"].sum().to_numpy() == pytest.approx(1)
    assert np.isfinite(detection.roc_curves(tied, "msp")["tpr"]).all()


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11])
def test_few_test_images_have_fewer_deciles(table, n: int) -> None:
    found = detection.deciles(table.query("origin == 'id'").iloc[:n], 0.95)
    assert found["n"].sum() == n
    assert len(found) == min(n, 10)
    assert np.isfinite(found).all(axis=None)
