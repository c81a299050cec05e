"""Families of tests share alpha."""

import json

import numpy as np
import pytest

from mistakes.evaluation import families, hypotheses
from mistakes.evaluation.hypotheses import Group, Sample
from mistakes.statistics import effect_sizes


def group(
    scores: np.ndarray, classes: np.ndarray | None = None, msp: np.ndarray | None = None
) -> Group:
    nothing = np.zeros(len(scores))
    return Group(scores, nothing if classes is None else classes, nothing if msp is None else msp)


def settings(seed: int, resamples: int = 199, bins: int = 8) -> hypotheses.Settings:
    return hypotheses.Settings(resamples, 2, 0.95, bins, seed)


def null_of_h3(rng: np.random.Generator) -> Sample:
    return Sample(group(rng.exponential(size=20)), group(rng.exponential(size=50)))


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


def test_nothing_to_test_is_an_empty_table() -> None:
    none = families.adjusted([], 0.05, 0.56)
    assert none.to_dict("records") == []
    assert families.markdown(none).count("\n") == 2
