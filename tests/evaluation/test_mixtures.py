"""Mixtures have their declared shares."""

import pytest
from score_tables import SCORES

from mistakes.evaluation import (
    mixtures,
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
