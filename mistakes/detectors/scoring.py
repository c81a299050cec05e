"""Every score of every input. Higher = more anomalous, for all of them, fixed a priori."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mistakes.artifacts import Array
from mistakes.data.features import Batch, Outputs
from mistakes.detectors import baselines, density
from mistakes.detectors.baselines import Baselines
from mistakes.detectors.density import Density
from mistakes.detectors.guard import Guard
from mistakes.errors import ArgumentError, InputError

NAMES = ("guard", "nll", "joint", *baselines.NAMES)  # params.yaml may leave vim out


@dataclass(frozen=True)
class Detectors:
    """Everything fitted that scores an input."""

    density: Density
    baselines: Baselines
    guard: Guard

    def score(self, batch: Batch, where: str = "scores") -> dict[str, Array]:
        """Return the scores that ``examine`` returns, float64 (n,) each."""
        return self.examine(batch, where)[0]

    def examine(self, batch: Batch, where: str) -> tuple[dict[str, Array], Array]:
        """Return the scores NAMES, float64 (n,), of a batch of n inputs, which ``where`` names in
        errors.

        And the reason of each input, text (n,): the part of the guard that is most surprised.

        guard : module guard. nll : -log p(z), nats. joint : -(log p(z) + log max_y p(y|z)),
        nats. The rest: module baselines. Raises InputError, naming score and row, where one is NaN
        or infinite.
        """
        log_density = density.evaluate(self.density.log_prob, batch.features).astype(np.float64)
        surprises = self.guard.explain(batch.early, batch.logits, log_density)
        found = self.baselines.score(batch.features, batch.logits)
        log_confidence = np.log(-found["msp"])  # MSP is minus the largest softmax probability
        scores = {
            "guard": surprises.max(1),
            "nll": -log_density,
            "joint": -(log_density + log_confidence),
            **found,
        }
        for name, values in scores.items():
            if not np.isfinite(values).all():
                row = int(np.isfinite(values).argmin())
                raise InputError(
                    where, f"{name} of row {row}", float(values[row]), "a finite number"
                )
        return scores, np.array(self.guard.names, object)[surprises.argmax(1)]

    def to(self, device: torch.device) -> "Detectors":
        """Return a copy on ``device``, where it then scores and is attacked."""
        whole = nn.ModuleList([self.density, self.baselines, self.guard])
        moved: Any = copy.deepcopy(whole).to(device).requires_grad_(False)
        return Detectors(*moved)

    def applicable(self, names: Sequence[str], warn: Callable[[str], None]) -> list[str]:
        """Return ``names`` of scores to be attacked without the baselines that were left out, and
        warn of those.
        """
        left_out = self.baselines.left_out
        for name in (name for name in names if name in left_out):
            warn(f"the baseline {name} is not applicable and not attacked: {left_out[name]}")
        return [name for name in names if name not in left_out]

    def differentiable(self, name: str) -> Callable[[Outputs], Tensor]:
        """Return the score ``name`` as a function of a classifier's outputs, float64 (n,), with its
        gradient.

        Raises InputError for a name that is none of the scores.
        """
        own: dict[str, Callable[[Outputs], Tensor]] = {
            "guard": lambda o: self.guard(o.early, o.logits, self.density.log_prob(o.features)),
            "nll": lambda o: -self.density.log_prob(o.features).double(),
            "joint": lambda o: (
                -(self.density.log_prob(o.features) + o.logits.log_softmax(1).amax(1)).double()
            ),
        }
        if name in own:
            return own[name]
        if name not in self.baselines.names:
            known = ", ".join([*own, *self.baselines.names])
            raise ArgumentError("detectors", name, f"one of {known}")
        return lambda o: self.baselines(o.features, o.logits, [name])[name]


def outcome(logits: Array, labels: Array) -> dict[str, Array]:
    """Return label, prediction and correct, each (n,), of logits (n, k) and labels int (n,).

    Labels of -1 are never correct.

    Examples
    --------
    >>> outcome(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, -1]))["correct"].tolist()
    [True, False]
    """
    prediction = logits.argmax(1).astype(np.int64)
    found = {"label": labels.astype(np.int64), "prediction": prediction}
    return found | {"correct": prediction == labels}


def table(scores: dict[str, Array], logits: Array, labels: Array) -> pd.DataFrame:
    """Return a row per input: label, prediction, correct, and the scores.

    Examples
    --------
    >>> table({"msp": np.array([-0.9])}, np.array([[0.0, 2.0]]), np.array([1])).columns.tolist()
    ['label', 'prediction', 'correct', 'msp']
    """
    return pd.DataFrame(outcome(logits, labels) | scores)
