"""Samples of failures and successes, as the hypotheses compare them."""

import numpy as np

from mistakes.evaluation.hypotheses import Group, Sample


def group(
    scores: np.ndarray, classes: np.ndarray | None = None, msp: np.ndarray | None = None
) -> Group:
    nothing = np.zeros(len(scores))
    return Group(scores, nothing if classes is None else classes, nothing if msp is None else msp)


def split(failed: np.ndarray, scores: np.ndarray, classes: np.ndarray, msp: np.ndarray) -> Sample:
    return Sample(*(Group(scores[side], classes[side], msp[side]) for side in (failed, ~failed)))


def null_of_h5(rng: np.random.Generator) -> Sample:
    return split(rng.random(400) < 0.2, rng.normal(size=400), np.zeros(400), np.zeros(400))
