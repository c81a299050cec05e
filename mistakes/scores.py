"""Every score of every input. Higher = more anomalous, for all of them, fixed a priori."""

import numpy as np
import pandas as pd

from mistakes import baselines, density
from mistakes.artifacts import Array
from mistakes.baselines import Baselines
from mistakes.density import Density
from mistakes.errors import InputError

NAMES = ("log_density", "joint", *baselines.NAMES)  # params.yaml may leave vim out


def score(features: Array, logits: Array, fitted: Density, others: Baselines) -> dict[str, Array]:
    """Return the scores NAMES, float64 (n,), of features (n, d) and logits (n, k).

    log_density : -log p(z), nats. joint : -(log p(z) + log max_y p(y|z)), nats. The rest: module baselines.
    Raises InputError, naming score and row, where one is NaN or infinite.
    """
    log_density = density.evaluate(fitted.log_prob, features).astype(np.float64)
    found = others.score(features, logits)
    log_confidence = np.log(-found["msp"])  # MSP is minus the largest softmax probability
    scores = {"log_density": -log_density, "joint": -(log_density + log_confidence), **found}
    for name, values in scores.items():
        if not np.isfinite(values).all():
            row = int(np.isfinite(values).argmin())
            raise InputError("scores", f"{name} of row {row}", float(values[row]), "a finite number")
    return scores


def table(scores: dict[str, Array], logits: Array, labels: Array) -> pd.DataFrame:
    """Return a row per input: label, prediction, correct, and the scores; labels of -1 are never correct."""
    prediction = logits.argmax(1).astype(np.int64)
    known = {"label": labels.astype(np.int64), "prediction": prediction, "correct": prediction == labels}
    return pd.DataFrame(known | scores)
