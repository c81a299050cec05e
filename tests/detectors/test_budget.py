"""The guard's shares, chosen by what they cost on the mistakes of val."""

import numpy as np
import pandas as pd
import pytest

from mistakes.detectors import budget

NAMES = ("confidence", "probe", "evidence", "early_density", "density", "density_2")


def inputs(
    rng: np.random.Generator, telling: str
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Return -log p of the parts of 2,000 inputs, the names, and which are the 200 mistakes."""
    found = rng.exponential(size=(2200, len(NAMES)))
    wrong = np.arange(2200) < 200
    found[wrong, NAMES.index(telling)] += 2
    return found, NAMES, wrong


def test_the_shares_are_those_of_the_rule() -> None:
    found = budget.shares(NAMES, ["confidence", "probe"], 0.12)
    expected = {"confidence": 0.44, "probe": 0.44, "evidence": 0.06}
    expected |= dict.fromkeys(("early_density", "density", "density_2"), 0.02)
    assert found == pytest.approx(expected)


def test_the_probe_is_used_where_it_helps(rng: np.random.Generator) -> None:
    for telling, base in (("confidence", "confidence"), ("probe", "confidence+probe")):
        found = budget.choose(budget.curve(*inputs(rng, telling)), 0.005)
        assert found.loc[found["chosen"], "base"].tolist() == [base]


def test_the_share_is_the_largest_that_mistakes_allow(rng: np.random.Generator) -> None:
    points = budget.curve(*inputs(rng, "confidence"))
    costs = [budget.choose(points, fall) for fall in (1e-9, 0.005, 0.05, 1.0)]
    chosen = [found.loc[found["chosen"], "share"].item() for found in costs]
    assert chosen == sorted(chosen)
    assert chosen[0] < 0.05
    assert chosen[-1] == max(budget.SHARES)
    for found, fall in zip(costs, (1e-9, 0.005, 0.05, 1.0), strict=True):
        along = found[found["base"] == "confidence"]
        first, row = along["auroc"].iloc[0], along[along["chosen"]].iloc[0]
        assert row["auroc"] >= first - fall
        beyond = along[along["share"] > row["share"]]
        assert (beyond["auroc"] < first - fall).all()


def _ordered(
    found: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    return found[0], NAMES, found[1]


def test_the_auroc_is_that_of_the_guard_s_score(rng: np.random.Generator) -> None:
    from sklearn.metrics import roc_auc_score

    values, _, wrong = inputs(rng, "density")
    points = budget.curve(values, NAMES, wrong)
    row: pd.Series = points[(points["base"] == "confidence") & (points["share"] == 0.1)].iloc[0]
    shares = budget.shares(NAMES, ["confidence"], 0.1)
    score = sum(shares[name] * np.exp(values[:, i]) for i, name in enumerate(NAMES))
    assert row["auroc"] == pytest.approx(roc_auc_score(wrong, score))
