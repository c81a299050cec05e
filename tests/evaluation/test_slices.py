"""Slices against closed forms and simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mistakes.evaluation import slices
from mistakes.evaluation.slices import Slice


def a_table(correct: np.ndarray, found: list[Slice]):
    n = len(correct)
    return slices.table(found, correct, np.arange(n, dtype=float), ~correct, 0.95)


def test_a_row_says_what_is_in_its_slice() -> None:
    correct = np.r_[np.repeat(False, 6), np.repeat(True, 194)]
    rows = np.r_[0:5, 100:120]
    (row,) = a_table(correct, [Slice(kind="folder", name="night", rows=rows)]).to_dict("records")
    assert (row["n"], row["errors"], row["median_nll"]) == (25, 5, float(np.median(rows)))
    assert row["accuracy"] == 0.8
    exact = stats.binomtest(20, 25).proportion_ci(0.95, method="exact")
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((exact.low, exact.high))
    assert row["flagged_rate"] == 0.2
    # 5 or more of the 6 mistakes among 25 of 200
    assert row["p"] == pytest.approx(stats.hypergeom(200, 6, 25).sf(4))


def test_holm_holds_the_family_and_the_worst_comes_first(monkeypatch) -> None:
    """Overlapping slices of one classifier that errs alike everywhere: few alarms."""
    monkeypatch.setattr("gc.collect", lambda: None)  # statsmodels calls it, 0.1 s each
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 4, (2, 300))
    found = slices.of_classes(prediction, label, list("abcd"))
    wrong = 0
    for _ in range(300):
        table = a_table(rng.random(300) < 0.8, found)
        assert table["p"].is_monotonic_increasing
        assert (table["p_holm"] >= table["p"]).all()
        wrong += int(table["p_holm"].min() <= 0.05)
    assert wrong <= stats.binom(300, 0.05).ppf(0.999)


def test_slices_of_few_inputs_are_left_out() -> None:
    few = Slice(kind="folder", name="a", rows=np.arange(slices.MIN_INPUTS - 1))
    assert not len(a_table(np.ones(50, bool), [few]))


def test_columns_beside_the_label_are_slices_where_they_group() -> None:
    columns = pd.DataFrame(
        {
            "folder": ["day", "night", "day", "day"],
            "camera": ["a"] * 4,  # one value: no group
            "patient": [1, 1, 2, None],
        }
    )
    found = {(s.kind, s.name): s.rows.tolist() for s in slices.of_columns(columns)}
    assert found["folder", "night"] == [1]
    assert found["folder", "day"] == [0, 2, 3]
    assert {kind for kind, _ in found} == {"folder", "patient"}
    many = pd.DataFrame({"file": [str(i) for i in range(slices.VALUES + 1)]})
    assert slices.of_columns(many) == []


def test_members_name_the_inputs_of_each_slice() -> None:
    test = pd.DataFrame(
        {"label": [0, 1, 1], "prediction": [0, 0, 1], "correct": [True, False, True]},
        index=[7, 8, 9],
    )
    night = Slice(kind="folder", name="night", rows=np.array([1, 2]))
    rows = slices.members([night], test, ["a.png", "b.png", "c.png"]).to_dict("records")
    assert [row["input"] for row in rows] == ["b.png", "c.png"]
    assert rows[0] == {
        "kind": "folder",
        "name": "night",
        "input": "b.png",
        "label": 1,
        "prediction": 0,
        "correct": False,
    }
    assert list(slices.members([], test.iloc[:0], []).columns) == list(rows[0])


def test_pairs_hold_what_is_taken_for_one_another() -> None:
    prediction, label = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 2, 1])
    found = {
        one.name: one.rows.tolist() for one in slices.of_classes(prediction, label, list("abc"))
    }
    assert found == {
        "a": [0, 3],
        "b": [1, 4],
        "c": [2],
        "a / b": [0, 1, 4],
        "a / c": [0, 2, 3],
        "b / c": [4],
    }


def test_clusters_of_mistakes_on_val_are_found_again_on_test() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[5.0, 0.0], [-5.0, 3.0]])
    mistakes = np.concatenate([centre + rng.normal(size=(40, 2)) for centre in centres])
    test = np.concatenate(
        [*(c + rng.normal(size=(100, 2)) for c in centres), rng.normal(size=(300, 2)) * 0.3]
    )
    found = slices.of_clusters(mistakes, test, 2, seed=0)
    inside = [one.rows for one in found]
    assert sorted(int(rows.min()) // 100 for rows in inside) == [0, 1]
    for rows in inside:
        assert 30 <= len(rows) <= 70  # about half of a cluster lies within its median radius
        assert len(set(rows // 100)) == 1
    assert not slices.of_clusters(mistakes[:9], test, 2, seed=0)


def test_inputs_with_a_wrong_label_are_suspected_and_hard_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    nll, confidence = rng.normal(size=1000), rng.uniform(0.8, 0.99, 1000)
    correct = np.ones(1000, bool)
    correct[:20], nll[:10], confidence[:10] = False, -3, np.linspace(0.991, 0.999, 10)
    nll[10:20] = 3  # mistakes where the classifier has seen little
    assert slices.label_errors(correct, nll, confidence, 60).tolist() == list(range(9, -1, -1))
    assert slices.label_errors(correct, nll, confidence, 3).tolist() == [9, 8, 7]


def test_neighbours_are_those_of_all_distances() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(50, 5)), rng.normal(size=(7, 5))
    by_hand = ((known[None] - asked[:, None]) ** 2).sum(2).argsort(1)[:, :4]
    assert (slices.nearest(known, asked, 4) == by_hand).all()
    assert slices.nearest(known, asked[:0], 4).shape == (0, 4)
