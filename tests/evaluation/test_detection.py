"""Detection against second implementations, published identities and simulation."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from commands import ROOT
from scipy import integrate, stats
from sklearn.metrics import average_precision_score, roc_auc_score

from mistakes.config import params
from mistakes.data import corruptions, datasets
from mistakes.detectors import conformal
from mistakes.errors import ArgumentError, InputError
from mistakes.evaluation import (
    detection,
    differences,
    mixtures,
    operating_point,
    repeated_runs,
    score_table,
)
from mistakes.statistics import delong, intervals, resampling, risk_coverage, roc

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()
SCORES = ("nll", "msp", "knn", "guard")
SETTINGS = detection.Settings(0.1, 100, 0.95, 0)
CALIBRATION = 200


def rows(
    origin: str, name: str, correct: np.ndarray, index: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Scores that know something, each to its own degree, and are calibrated as those of the
    pipeline are.
    """
    table = pd.DataFrame({"origin": origin, "set": name, "index": index, "correct": correct})
    common = rng.normal(size=len(correct))
    for strength, score in enumerate(SCORES, start=1):
        table[score] = (
            0.4 * strength * ~correct + 0.6 * common + 0.8 * rng.normal(size=len(correct))
        ).round(2)
        calibration = np.random.default_rng(9).normal(size=CALIBRATION)
        table[f"p_{score}"] = conformal.p_values(calibration, table[score].to_numpy())
    return table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    no = np.zeros(60, bool)
    attacked = rng.permutation(400)[:60]
    parts = [rows("id", "test", rng.random(400) > 0.1, np.arange(400), rng)]
    parts += [
        rows("adversarial", name, rng.random(60) > share, attacked, rng)
        for name, share in (("a", 0.5), ("b", 0.9))
    ]
    parts += [
        rows("ood", "far", no, np.arange(60), rng),
        rows("ood", "near", no[:30], np.arange(30), rng),
    ]
    chosen = np.sort(rng.permutation(400)[:50])
    parts += [rows("shifted", f"blur_{s}", rng.random(50) > 0.1 * s, chosen, rng) for s in (1, 3)]
    return pd.concat(
        [*parts, rows("fit", "fit", rng.random(50) > 0, np.arange(50), rng)], ignore_index=True
    )


@pytest.fixture(scope="module")
def evaluation(table: pd.DataFrame) -> detection.Evaluation:
    return detection.evaluate(table, SCORES, SETTINGS)


# ROC statistics


def test_roc_statistics_agree_with_scikit_learn_also_weighted(rng: np.random.Generator) -> None:
    f, s = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 300).round(1)  # rounded: with ties
    labels, scores = np.r_[np.ones(80), np.zeros(300)], np.r_[f, s]
    wf, ws = (
        next(resampling.bootstrap_weights(80, 3, rng)),
        next(resampling.bootstrap_weights(300, 3, rng)),
    )
    failures, successes = roc.weighted(f, wf), roc.weighted(s, ws)
    for i in range(3):
        w = np.r_[wf[:, i], ws[:, i]]
        area = pytest.approx(roc_auc_score(labels, scores, sample_weight=w))
        assert roc.auroc(failures, successes)[i] == area
        assert resampling.auroc(resampling.rank(f, s), wf, ws)[i] == area
        precision = average_precision_score(labels, scores, sample_weight=w)
        assert roc.average_precision(failures, successes)[i] == pytest.approx(precision)
        precision = average_precision_score(1 - labels, -scores, sample_weight=w)
        assert roc.average_precision_low(successes, failures)[i] == pytest.approx(precision)
        drawn_s, drawn_f = (
            np.sort(np.repeat(s, ws[:, i].astype(int))),
            np.repeat(f, wf[:, i].astype(int)),
        )
        threshold = drawn_s[int(np.ceil(0.95 * len(drawn_s))) - 1]
        assert roc.fpr95(failures, successes)[i] == pytest.approx((drawn_f <= threshold).mean())


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
    trainings = repeated_runs.across(
        {"x": table, "y": table, "z": table}, SCORES, SETTINGS
    ).set_index("score")
    alone = detection.evaluate(table, SCORES, SETTINGS).macro.set_index("score")
    for bound in ("", "_low", "_high"):
        assert trainings[f"macro{bound}"][list(SCORES)].tolist() == pytest.approx(
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


def test_differences_are_those_of_the_tables(table, evaluation) -> None:
    found = differences.differences(table, evaluation, SETTINGS)
    assert set(found["against"]) == {
        "msp",
        "knn",
    }  # log_density and guard are never the baseline to beat
    assert set(found.loc[found["best"], "against"]) == {"knn"}
    assert (
        len(found) == 6 * 2 * 3
    )  # five sets and the macro mean, two references, three other scores each
    auroc = evaluation.sets.set_index(["cause", "set", "score"])["auroc"]
    of_sets = found.query("cause != 'macro'")
    for row in of_sets.to_dict("records"):
        key = row["cause"], row["set"]
        assert row["difference"] == pytest.approx(
            auroc[*key, row["score"]] - auroc[*key, row["against"]]
        )
        assert row["low"] < row["difference"] < row["high"]
        assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
    opposite = of_sets.set_index(["cause", "set", "score", "against"])["difference"]
    assert opposite["ood", "far", "knn", "msp"] == pytest.approx(
        -opposite["ood", "far", "msp", "knn"]
    )
    macro = found.query("cause == 'macro' and score == 'guard' and best").iloc[0]
    plain = evaluation.macro.set_index("score")["macro_auroc"]
    assert macro["difference"] == pytest.approx(plain["guard"] - plain["knn"])
    assert macro["low"] < macro["difference"] < macro["high"]


def test_bootstrap_and_delong_give_the_same_interval_of_a_single_cause(
    rng: np.random.Generator,
) -> None:
    one = rows("id", "test", rng.random(800) > 0.3, np.arange(800), rng)
    settings = detection.Settings(0.1, 2000, 0.95, 0)
    found = differences.differences(one, detection.evaluate(one, SCORES, settings), settings)
    width = found.assign(width=found["high"] - found["low"]).pivot(
        index=["score", "against"], columns="cause", values="width"
    )
    assert width["macro"].to_numpy() == pytest.approx(width["mistakes"].to_numpy(), rel=0.12)


def test_a_score_against_its_double_differs_by_nothing(table) -> None:
    double = table.assign(knn=table["msp"])
    found = differences.differences(double, detection.evaluate(double, SCORES, SETTINGS), SETTINGS)
    same = found.query("score == 'knn' and against == 'msp'")
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
    assert (same["p"] == 1).all()


# risk and coverage


def discrete(scores: np.ndarray, failures: np.ndarray) -> tuple[float, float]:
    """AURC as the mean over inputs of the selective risk, and AUGRC by trapezoids, for scores
    without ties.
    """
    error = np.cumsum(failures[np.argsort(scores)])
    n = len(error)
    generalised = np.r_[0, error] / n
    return float((error / np.arange(1, n + 1)).mean()), float(
        ((generalised[1:] + generalised[:-1]) / 2).mean()
    )


def test_areas_agree_with_the_definitions(rng: np.random.Generator) -> None:
    failures = rng.random(300) < 0.3
    scores = rng.normal(failures, 1)
    found = risk_coverage.areas(scores, failures, np.ones(300))
    assert found.augrc == pytest.approx(discrete(scores, failures)[1])
    # copies with broken ties, each input's copies together: the sum over inputs tends to the
    # integral
    fine = discrete(np.repeat(scores, 400), np.repeat(failures, 400))
    assert found.aurc == pytest.approx(fine[0], abs=1e-4)
    error = np.r_[0, np.cumsum(failures[np.argsort(scores)])] / 300
    knots = np.linspace(0, 1, 301)
    pieces = [
        integrate.quad(lambda c: np.interp(c, knots, error) / c, a or 1e-12, b)[0]
        for a, b in pairwise(knots)
    ]
    assert found.aurc == pytest.approx(sum(pieces))


def test_ties_have_the_expected_value_over_their_orders(rng: np.random.Generator) -> None:
    failures = rng.random(40) < 0.4
    scores = rng.integers(0, 4, 40).astype(float)
    found = risk_coverage.areas(scores, failures, np.ones(40))
    orders = [discrete(scores + 0.5 * rng.random(40), failures)[1] for _ in range(4000)]
    assert found.augrc == pytest.approx(np.mean(orders), abs=4 * np.std(orders) / np.sqrt(4000))
    # and for AURC in the limit of many copies
    many = [
        discrete(
            (wide := np.repeat(scores, 200)) + 0.5 * rng.random(len(wide)), np.repeat(failures, 200)
        )[0]
        for _ in range(40)
    ]
    assert found.aurc == pytest.approx(np.mean(many), abs=2e-3)


def test_areas_fulfil_the_published_identities(rng: np.random.Generator) -> None:
    failures, weights = rng.random(200) < 0.25, rng.random(200) + 0.1
    scores = rng.normal(failures, 1).round(1)
    found = risk_coverage.areas(scores, failures, weights)
    r = weights[failures].sum() / weights.sum()
    auroc = roc_auc_score(failures, scores, sample_weight=weights)
    # Traub et al. 2024: AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2
    assert found.augrc == pytest.approx((1 - auroc) * r * (1 - r) + r**2 / 2)
    best = risk_coverage.areas(failures.astype(float), failures, weights)
    assert best.e_aurc == pytest.approx(0, abs=1e-12)
    assert best.aurc == pytest.approx(r + (1 - r) * np.log(1 - r))
    assert best.augrc == pytest.approx(r**2 / 2)
    constant = risk_coverage.areas(np.zeros(200), failures, weights)
    assert (constant.aurc, constant.augrc) == (pytest.approx(r), pytest.approx(r / 2))
    assert risk_coverage.areas(scores, np.ones(200, bool), weights).e_aurc == pytest.approx(0)


def test_weights_are_copies(rng: np.random.Generator) -> None:
    failures, copies = rng.random(50) < 0.3, rng.integers(1, 5, 50)
    scores = rng.normal(size=50).round(1)
    weighed = risk_coverage.areas(scores, failures, 0.01 * copies)
    copied = risk_coverage.areas(
        np.repeat(scores, copies), np.repeat(failures, copies), np.ones(copies.sum())
    )
    assert (weighed.aurc, weighed.e_aurc, weighed.augrc) == pytest.approx(
        (copied.aurc, copied.e_aurc, copied.augrc)
    )


def test_mixtures_have_their_declared_shares(table) -> None:
    weights = mixtures.weigh(table, 0.1)
    part = table.loc[weights.index].assign(w=weights)
    by_set = part.groupby(["origin", "set"])["w"].sum()
    assert by_set.to_dict() == pytest.approx(
        {
            ("id", "test"): 0.9,
            ("adversarial", "a"): 0.025,
            ("adversarial", "b"): 0.025,
            ("ood", "far"): 0.025,
            ("ood", "near"): 0.025,
        }
    )
    assert not part.query("origin == 'adversarial'")["correct"].any()
    found = mixtures.mixtures(table, SCORES, {"test": 0.0, "ten": 0.1}, 0.1).set_index(
        ["mixture", "score"]
    )
    clean = table.query("origin == 'id'")
    row = found.loc["test", "msp"]
    assert row["prevalence"] == pytest.approx((~clean["correct"]).mean())
    hit = clean["p_msp"] <= 0.1
    assert row["flagged"] == pytest.approx(hit.mean())
    assert row["precision"] == pytest.approx((~clean["correct"])[hit].mean())
    assert found.loc["ten", "msp"]["prevalence"] == pytest.approx(0.1 + 0.9 * row["prevalence"])
    assert found.loc["ten", "msp"]["precision"] > row["precision"]
    assert mixtures.mixtures(clean, SCORES, {"ten": 0.1}, 0.1).empty  # nothing to mix in


# operating points


@pytest.mark.parametrize(("alpha", "calibration"), [(0.05, 200), (0.1, 39)])
def test_false_alarms_stay_in_the_band_as_often_as_stated(
    alpha: float, calibration: int, rng
) -> None:
    n, repetitions = 300, 3000
    counts = np.array(
        [
            (conformal.p_values(rng.normal(size=calibration), rng.normal(size=n)) <= alpha).sum()
            for _ in range(repetitions)
        ]
    )
    low, high = operating_point.band(alpha, n, calibration, 0.9)
    k = int(np.floor(alpha * (calibration + 1)))
    exact = stats.betabinom(n, k, calibration + 1 - k)
    assert exact.cdf(low * n - 1) <= 0.05 < exact.cdf(low * n)
    assert exact.sf(high * n) <= 0.05 + 1e-12 < exact.sf(high * n - 1)
    covered = exact.cdf(high * n) - exact.cdf(low * n - 1)
    share = ((counts >= low * n - 1e-9) & (counts <= high * n + 1e-9)).mean()
    assert share == pytest.approx(covered, abs=4 * np.sqrt(0.09 / repetitions))
    simple = operating_point.band(alpha, n, None, 0.9)
    assert simple == pytest.approx(np.array(stats.binom(n, alpha).interval(0.9)) / n)
    assert (
        (counts >= simple[0] * n) & (counts <= simple[1] * n)
    ).mean() < 0.88  # what the small cal set adds is real


def test_too_few_calibration_images_flag_nothing() -> None:
    assert operating_point.band(0.01, 500, 98, 0.95) == (0.0, 0.0)
    assert operating_point.band(0.01, 500, 99, 0.95)[1] > 0


def test_false_alarms_and_flagged_shares_are_counted(table) -> None:
    alarms = operating_point.false_alarms(table, SCORES, [0.05, 0.1], CALIBRATION, 0.95).set_index(
        ["score", "alpha"]
    )
    good = table.query("origin == 'id' and correct")
    row = alarms.loc["knn", 0.1]
    assert row["false_alarms"] == pytest.approx((good["p_knn"] <= 0.1).mean())
    assert row["n"] == len(good)
    assert row["band_low"] < row["binomial_low"] < 0.1 < row["binomial_high"] < row["band_high"]
    assert row["within"] == (row["band_low"] <= row["false_alarms"] <= row["band_high"])
    of_all = operating_point.false_alarms(
        table, ("knn",), [0.1], CALIBRATION, 0.95, everyone=True
    ).iloc[0]
    assert of_all["n"] == 400
    assert of_all["false_alarms"] == pytest.approx(
        (table.query("origin == 'id'")["p_knn"] <= 0.1).mean()
    )
    always = operating_point.false_alarms(
        table.assign(p_knn=0.0), ("knn",), [0.1], CALIBRATION, 0.95
    )
    assert not always["within"].any()
    flagged = operating_point.flagged(table, SCORES, [0.05, 0.1], 0.95)
    assert len(flagged) == 5 * len(SCORES) * 2
    near = flagged.query("set == 'near' and score == 'guard' and alpha == 0.05").iloc[0]
    assert near["flagged"] == pytest.approx(
        (table.query("set == 'near'")["p_guard"] <= 0.05).mean()
    )


def test_undetected_counts_successes_among_all_attempts(table) -> None:
    row = (
        operating_point.undetected(table, SCORES, SETTINGS)
        .query("set == 'a' and score == 'guard'")
        .iloc[0]
    )
    attacked = table.query("set == 'a'")
    hidden = (~attacked["correct"] & (attacked["p_guard"] > SETTINGS.alpha)).sum()
    interval = stats.binomtest(int(hidden), 60).proportion_ci(0.95, method="exact")
    assert (row["attempted"], row["succeeded"]) == (60, (~attacked["correct"]).sum())
    assert (row["undetected"], row["low"], row["high"]) == pytest.approx(
        (hidden / 60, interval.low, interval.high)
    )
    assert row["undetected"] < row["succeeded"] / 60


def test_shift_compares_with_the_clean_originals(table) -> None:
    found = operating_point.shift(table, SCORES, SETTINGS)
    assert list(dict.fromkeys(zip(found["kind"], found["severity"], strict=True))) == [
        ("clean", 0),
        ("blur", 1),
        ("blur", 3),
    ]
    part = table.query("set == 'blur_3'")
    hit = part["p_knn"] <= SETTINGS.alpha
    row = found.query("severity == 3 and score == 'knn'").iloc[0]
    assert row["error_rate"] == pytest.approx((~part["correct"]).mean())
    assert row["flagged"] == pytest.approx(hit.mean())
    assert row["accuracy_unflagged"] == pytest.approx(part["correct"][~hit].mean())
    assert row["errors_caught"] == pytest.approx(hit[~part["correct"]].mean())
    originals = table.query("origin == 'id'").set_index("index").loc[part["index"]]
    clean = found.query("severity == 0 and score == 'knn'").iloc[0]
    assert clean["n"] == 50
    assert clean["error_rate"] == pytest.approx((~originals["correct"]).mean())
    assert operating_point.shift(table.query("origin == 'id'"), SCORES, SETTINGS).columns.equals(
        found.columns
    )


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
    key, shown = ("mistakes" if origin == "id" else origin, name), number >= score_table.LEAST
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


# corruptions and held-out classes


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "shot_noise", "blur", "brightness", "contrast", "rotation"]
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28)])
def test_corruptions_grow_with_severity_and_are_deterministic(
    kind: str, shape: tuple[int, int, int], rng
) -> None:
    steps = np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)
    images = (255 * (steps + 0.3 * rng.random((40, *shape))) / 1.3).astype(np.uint8)
    sets = [corruptions.draw(kind, severity, images, 0) for severity in range(1, 6)]
    distances = [np.square(made.astype(float) - images).mean() for made in sets]
    assert all(a < b for a, b in zip([0.0, *distances], distances, strict=False)), distances
    assert {(made.shape, made.dtype) for made in sets} == {(images.shape, images.dtype)}
    assert np.array_equal(sets[2], corruptions.draw(kind, 3, images, 0))
    random = not np.array_equal(sets[2], corruptions.draw(kind, 3, images, 1))
    assert random == (kind in {"gaussian_noise", "shot_noise", "rotation"})


def digits(n: int = 60) -> datasets.Labelled:
    labels = np.arange(n) % 5
    return datasets.Labelled(
        {"images": np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)}, labels, np.arange(n)
    )


def test_novel_classes_are_nowhere_else_and_the_rest_is_renumbered() -> None:
    train, test = digits(), digits(20)
    dataset = datasets.Dataset(
        train, datasets.Labelled(test.inputs, test.labels, test.indices + 60), tuple("abcde")
    )
    left, near = datasets.hold_out(dataset, ["b", 3])
    assert left.classes == ("a", "c", "e")
    assert sorted(set(near.labels)) == [1, 3]
    assert (near.indices >= 60).all()  # test images
    assert len(near.labels) == 8
    parts = datasets.split(left, 10, 10, None, 0)
    for part in parts.values():
        original = np.concatenate([train.labels, test.labels])[part.indices]
        assert np.array_equal(
            np.array(list("abcde"))[original], np.array(left.classes)[part.labels]
        )
        assert not set(part.indices) & set(near.indices)
    assert sum(len(part.labels) for part in parts.values()) == 36 + 12
    _, without_test = datasets.hold_out(datasets.Dataset(train, None, tuple("abcde")), [0])
    assert len(without_test.labels) == 12


def test_holding_nothing_out_changes_nothing_and_leaves_an_empty_array_of_the_right_shape() -> None:
    dataset = datasets.Dataset(digits(), None, tuple("abcde"))
    same, near = datasets.hold_out(dataset, [])
    assert same.classes == dataset.classes
    assert np.array_equal(same.train.labels, dataset.train.labels)
    assert near.inputs["images"].shape == (0, 1, 1, 1)
    assert near.inputs["images"].dtype == np.uint8


@pytest.mark.parametrize("classes", [["z"], [5], [-1], ["a", "1"]])
def test_unknown_classes_are_named_with_the_known(classes: list) -> None:
    with pytest.raises(
        ArgumentError, match="novel_classes is .*expected names or numbers among 0 a, 1 b, 2 c"
    ):
        datasets.hold_out(datasets.Dataset(digits(), None, tuple("abcde")), classes)


def test_two_classes_must_be_left() -> None:
    with pytest.raises(ArgumentError, match="at least two classes to be left"):
        datasets.hold_out(datasets.Dataset(digits(), None, tuple("abcde")), [0, 1, 2, 3, 3])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "alphas: [0.01, 0.05, 0.1]",
            "alphas: [0.01, 0.1]",
            "detection.alphas is .*a list that has detection.alpha",
        ),
        ("severities: [1, 2, 3, 4, 5]", "severities: [1, 6]", "corruptions.severities.1 is 6"),
        ("ten_percent: 0.1}", "ten_percent: 1.0}", "detection.mixtures.ten_percent is 1.0"),
        ("kinds: [gaussian_noise", "kinds: [fog", "corruptions.kinds.0 is 'fog'"),
    ],
)
def test_parameters_out_of_range_are_named(old: str, new: str, words: str) -> None:
    assert old in SMOKE
    with pytest.raises(InputError, match=words):
        params.parse(SMOKE.replace(old, new))
