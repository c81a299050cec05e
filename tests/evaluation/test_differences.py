"""Paired differences between scores."""

import numpy as np
import pytest
from score_tables import SCORES, SETTINGS, rows

from mistakes.evaluation import (
    detection,
    differences,
)


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
