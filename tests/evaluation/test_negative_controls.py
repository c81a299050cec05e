"""Negative controls pass where nothing is wrong and fail where something is."""

import json

import numpy as np
import pytest
from samples import group, null_of_h5

from mistakes.evaluation import negative_controls
from mistakes.evaluation.hypotheses import Sample

# controls


def test_controls_pass_on_independent_labels_and_fail_where_something_is_wrong(
    rng: np.random.Generator,
) -> None:
    sample = null_of_h5(rng)
    scores = sample.successes.scores
    found = negative_controls.run_all(
        sample, scores - 1, negative_controls.Settings(200, 99, 200, 0.01, 0)
    )
    assert [c.control for c in found] == [
        "id_halves",
        "random_score",
        "shuffled_correctness",
        "train_against_test",
    ]
    assert [c.passed for c in found] == [True, True, True, None]
    assert found[3].difference == pytest.approx(1)
    assert found[3].low > 0.6
    assert found == negative_controls.run_all(
        sample, scores - 1, negative_controls.Settings(200, 99, 200, 0.01, 0)
    )
    broken = negative_controls._uniform(
        "broken",
        9,
        9,
        lambda rng: rng.random() ** 2,
        negative_controls.Settings(200, 9, 9, 0.01, 0),
    )
    assert broken.passed is False
    assert broken.low > 0.05
    nobody = negative_controls.run_all(
        Sample(group(scores[:0]), sample.successes),
        scores,
        negative_controls.Settings(20, 9, 20, 0.01, 0),
    )
    assert nobody[2].passed is None


@pytest.mark.parametrize("n", [0, 1, 2])
def test_controls_of_few_are_finite(n: int, rng: np.random.Generator) -> None:
    one, many = group(rng.normal(size=n)), group(rng.normal(size=40))
    for failures, successes, train in (
        (one, many, 40),
        (many, group(many.scores[:2]), n),
        (one, group(np.ones(40)), 9),
    ):
        found = negative_controls.run_all(
            Sample(failures, successes),
            np.ones(train),
            negative_controls.Settings(20, 19, 20, 0.01, 0),
        )
        json.dumps([vars(control) for control in found], allow_nan=False)
