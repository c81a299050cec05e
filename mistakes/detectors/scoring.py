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
from mistakes.detectors.guard import Guard, negative_log_softmax
from mistakes.errors import ArgumentError, InputError

OWN = ("guard", "nll", "joint", "posterior")  # the scores that are no baseline
# params.yaml may leave out vim, the views and the flow's condition, and with them these scores
NAMES = (*OWN, "msp_views", *baselines.NAMES)


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

        guard : module guard. nll : -log p(z), nats. joint : -log p(z, y), nats, of the predicted
        class y; of a flow that is not conditioned -(log p(z) + log p(y|x)), which takes the
        classifier's word for it. posterior : -log p(y|z) by the flow, where it is conditioned.
        msp_views : -max_y of the mean probability, where there are views. The rest: module
        baselines. Raises InputError, naming score and row, where one is NaN or infinite.
        """
        guard, reason = self.guard.combine(
            self.guard.explain(batch, density.log_joints(self.density, batch))
        )
        scores = {"guard": guard, **self._of_density(batch)}
        if batch.views is not None:
            scores["msp_views"] = -np.exp(batch.views.max(1).astype(np.float64))
        scores |= self.baselines.score(batch.features, batch.logits)
        for name, values in scores.items():
            if not np.isfinite(values).all():
                row = int(np.isfinite(values).argmin())
                raise InputError(
                    where, f"{name} of row {row}", float(values[row]), "a finite number"
                )
        return scores, reason

    def _of_density(self, batch: Batch) -> dict[str, Array]:
        found = density.evaluate(self.density.log_joint, batch.features)
        log_joint, y = torch.as_tensor(found).double(), torch.as_tensor(batch.predicted)
        nll = -log_joint.logsumexp(1)
        if self.density.form.condition == "none":
            logits = torch.as_tensor(batch.logits.copy()).double()
            return {"nll": nll.numpy(), "joint": (nll - logits.log_softmax(1).amax(1)).numpy()}
        joint, posterior = (
            -log_joint.gather(1, y[:, None])[:, 0],
            negative_log_softmax(log_joint, y),
        )
        return {"nll": nll.numpy(), "joint": joint.numpy(), "posterior": posterior.numpy()}

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

        Raises ArgumentError for a name that is none of the scores.
        """
        flow = self.density
        own: dict[str, Callable[[Outputs], Tensor]] = {
            "guard": lambda o: self.guard(o, flow.log_joints_at(o.features, o.predicted)),
            "nll": lambda o: -flow.log_prob(o.features).double(),
            "joint": lambda o: -flow.log_joint_at(o.features, o.predicted).double(),
            "posterior": lambda o: negative_log_softmax(
                flow.log_joint(o.features).double(), o.predicted
            ),
            "msp_views": lambda o: -(o.logits if o.views is None else o.views).softmax(1).amax(1),
        }
        if flow.form.condition == "none":
            del own["posterior"]
            own["joint"] = lambda o: own["nll"](o) - o.logits.double().log_softmax(1).amax(1)
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
