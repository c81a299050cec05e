"""Mixtures have their declared shares."""

import numpy as np
import pandas as pd
import pytest

from mistakes.detectors import conformal
from mistakes.evaluation import (
    mixtures,
)

SCORES = ("nll", "msp", "knn", "guard")
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
