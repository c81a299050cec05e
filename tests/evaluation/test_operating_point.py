"""False alarms, flagged rates and shift at alpha."""

import numpy as np
import pytest
from scipy import stats
from score_tables import CALIBRATION, SCORES, SETTINGS

from mistakes.detectors import conformal
from mistakes.evaluation import (
    operating_point,
)

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
        table, ("knn",), [0.1], CALIBRATION, 0.95, calibrated_on_all=True
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
