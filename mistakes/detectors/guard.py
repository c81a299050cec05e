"""The guard: one score for mistakes, adversarial and out-of-distribution inputs, from several ways
to look at an input.

Let y be the class that the classifier predicts. Each part is a score, and becomes a p-value under
successes:

- confidence: -log of the mean of p(y | x) over the views of the image (one look where there are no
  views);
- probe: -log p(y | early features) of a small network that learned the classifier's own
  predictions on fit;
- evidence: -log p(y | block) by Bayes' rule from class-conditional Gaussians of each block's early
  features, their p-values combined as Fisher does. An attack moves the last layer far and the first
  ones little: they object;
- early_density: -log p(block) from the same Gaussians, combined likewise;
- density: -log p(z, y) of the normalizing flow on the features; density_2, ... those of its other
  representations.

guard = log sum over parts of share / p: the harmonic mean of the p-values, weighted by shares that
are 1 in all (Wilson 2019, The harmonic mean p-value for combining dependent tests). No label of a
training image is used. The p-values only make parts comparable; that a share alpha of successes is
flagged is due to the calibration of the guard itself on cal, which no part has seen. Shares are
given, or chosen on val by module budget. Without early features (outputs given as files) confidence
and densities are left. A class that is predicted for few images of fit, or for none, has the
covariance of all (module gaussians).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mistakes import devices, progress
from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.data.features import Batch, Outputs
from mistakes.detectors import gaussians
from mistakes.detectors.detector import Detector
from mistakes.detectors.pareto_tail import Tail
from mistakes.errors import InputError

PARTS = ("confidence", "probe", "evidence", "early_density", "density")
EARLY = ("probe", "evidence", "early_density")  # the parts that early features are needed for
FARTHEST = 1e15  # standard deviations that the probe tells apart; sums of more would leave float32
DROPPED = 0.2  # share of the probe's hidden units, in training
_ROWS = 1000  # scored at once


@dataclass(frozen=True)
class Settings:
    """The section ``detectors.guard`` of params.yaml without the shares, explained there."""

    seed: int
    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float


class Guard(nn.Module):
    """The fitted guard; differentiable, so that it can be attacked."""

    centre: Tensor
    scale: Tensor
    shares: Tensor

    def __init__(self, widths: Sequence[int], hidden: int, classes: int, densities: int) -> None:
        """Make an unfitted guard, of equal shares, for early features (n, m_i) of ``widths`` m_i,
        ``classes`` predicted classes and so many ``densities``.
        """
        super().__init__()
        self.widths, self.hidden, self.classes = list(widths), hidden, classes
        self.densities = densities
        more = tuple(f"density_{i + 1}" for i in range(1, densities))
        self.names = (*(name for name in PARTS if widths or name not in EARLY), *more)
        total = sum(widths)
        self.register_buffer("centre", torch.zeros(total))
        self.register_buffer("scale", torch.ones(total))
        equal = torch.full((len(self.names),), 1 / len(self.names), dtype=torch.double)
        self.register_buffer("shares", equal)
        layers = (
            [nn.Linear(total, hidden), nn.ReLU(), nn.Dropout(DROPPED), nn.Linear(hidden, classes)]
            if widths
            else []
        )
        self.probe = nn.Sequential(*layers)
        self.gaussians = nn.ModuleList(Detector() for _ in widths)  # what each keeps: Gaussians
        self.evidence_tails = nn.ModuleList(Tail() for _ in widths)
        self.early_tails = nn.ModuleList(Tail() for _ in widths)
        self.tails = nn.ModuleList(Tail() for _ in self.names)

    def forward(self, outputs: Outputs, log_densities: Tensor) -> Tensor:
        """Return the score, float64 (n,), of a classifier's outputs and of log p(z, y), nats (n,
        densities); see the module.
        """
        return (self.surprises(outputs, log_densities) + self.shares.log()).logsumexp(1)

    def surprises(self, outputs: Outputs, log_densities: Tensor) -> Tensor:
        """Return -log p of each of ``names``, float64 (n, len(names))."""
        parts = self.parts(outputs, log_densities)
        each = [tail(parts[name]) for name, tail in zip(self.names, self.tails, strict=True)]
        return torch.stack(each, dim=1)

    def parts(self, outputs: Outputs, log_densities: Tensor) -> dict[str, Tensor]:
        """Return the parts ``names``, each float64 (n,)."""
        looks, y = outputs.logits if outputs.views is None else outputs.views, outputs.predicted
        found = {"confidence": negative_log_softmax(looks.double(), y)}
        if self.widths:
            posterior, marginal = self._by_block(outputs.early, y)
            evidence, early = (
                torch.stack([tail(part) for tail, part in zip(tails, blocks, strict=True)]).sum(0)
                for tails, blocks in (
                    (self.evidence_tails, posterior),
                    (self.early_tails, marginal),
                )
            )
            found["probe"] = negative_log_softmax(self._probe(outputs.early), y)
            found |= {"evidence": evidence, "early_density": early}
        densities = [name for name in self.names if name.startswith("density")]
        columns = log_densities.double().unbind(1)
        return found | {name: -one for name, one in zip(densities, columns, strict=True)}

    def weigh(self, shares: Mapping[Any, float]) -> None:
        """Set the shares of the parts; those of parts that are absent go to the others in
        proportion, and one of ``density`` to all densities in equal parts.
        """
        given = dict(shares)
        if "density_2" not in given:
            each = given["density"] / self.densities
            given |= {name: each for name in self.names if name.startswith("density")}
        found = torch.tensor([given[name] for name in self.names], dtype=torch.double)
        self.shares = (found / found.sum()).to(self.shares.device)

    def _probe(self, early: Sequence[Tensor]) -> Tensor:
        x = (torch.cat(tuple(early), dim=1) - self.centre) / self.scale
        return self.probe(x.clamp(-FARTHEST, FARTHEST)).double()

    def _by_block(
        self, early: Sequence[Tensor], predicted: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return -log p(y | block) and -log p(block) of each block, nats."""
        posterior, marginal = [], []
        for kept, block in zip(self.gaussians, early, strict=True):
            assert isinstance(kept, Detector)
            distances = gaussians.squared_distances(kept.state, block.double())
            joint = kept.state["log_weights"] - distances / 2  # (n, k): log p(z, y)
            posterior.append(negative_log_softmax(joint, predicted))
            marginal.append(-joint.logsumexp(1))
        return posterior, marginal

    def score(self, batch: Batch, log_densities: Array) -> Array:
        """Return what forward does, for arrays of any length."""
        return self.combine(self.explain(batch, log_densities))[0]

    def combine(self, surprises: Array) -> tuple[Array, Array]:
        """Return of the surprises (n, len(names)) the score, float64 (n,), and the reason, text
        (n,): the part that is most surprised, each by its share.
        """
        weighed = surprises + self.shares.log().cpu().numpy()
        reason = np.array(self.names, object)[weighed.argmax(1)]
        return np.logaddexp.reduce(weighed, axis=1), reason

    @torch.no_grad()
    def explain(self, batch: Batch, log_densities: Array) -> Array:
        """Return what surprises does, for arrays of any length."""
        device, n = devices.of(self), len(batch.logits)
        parts = [
            self.surprises(*_tensors(batch, log_densities, slice(i, i + _ROWS), device))
            for i in range(0, max(1, n), _ROWS)
        ]
        return torch.cat(parts).cpu().numpy()


def negative_log_softmax(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return -log softmax of ``scores`` (n, k) at ``chosen`` (n,): to the last digit also where it
    is nearly 0.

    Examples
    --------
    >>> negative_log_softmax(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).tolist()
    [0.6931471824645996]
    """
    others = scores.scatter(1, chosen[:, None], -torch.inf).logsumexp(1)
    return functional.softplus(others - scores.gather(1, chosen[:, None])[:, 0])


def _tensors(
    batch: Batch, log_densities: Array, rows: slice, device: torch.device
) -> tuple[Outputs, Tensor]:
    def tensor(part: Array) -> Tensor:  # of a copy, for stored arrays are mapped read-only
        return torch.as_tensor(part[rows].copy()).to(device)

    views = None if batch.views is None else tensor(batch.views)
    early = tuple(tensor(part) for part in batch.early)
    outputs = Outputs(tensor(batch.features), tensor(batch.logits), early, views)
    return outputs, tensor(log_densities)


def fit(
    training: Batch,
    reference: Batch,
    log_densities: Array,
    settings: Settings,
    device: torch.device = devices.CPU,
) -> Guard:
    """Fit, on ``device``, on the outputs for fit; all parts get the same share.

    reference : correctly classified images of val, whose p-values make the parts comparable, with
    their log p(z, y), nats (n, densities). Raises InputError where there are none.
    """
    if not len(reference.logits):
        raise InputError(
            "val",
            "no input is classified correctly, so nothing makes the parts of the guard comparable",
        )
    predicted = torch.as_tensor(training.predicted).to(device)
    widths, classes = [part.shape[1] for part in training.early], training.logits.shape[1]
    guard = Guard(widths, settings.hidden, classes, log_densities.shape[1]).to(device)
    if guard.widths:
        blocks = [torch.as_tensor(part.copy()).to(device) for part in training.early]
        whole = torch.cat(blocks, dim=1)
        guard.centre, guard.scale = whole.mean(0), whole.std(0).clamp(min=1e-6)
        for kept, block in zip(guard.gaussians, blocks, strict=True):
            assert isinstance(kept, Detector)
            kept.keep(**gaussians.of_classes(block.double(), predicted, guard.classes))
        _learn(guard, (whole - guard.centre) / guard.scale, predicted, settings)
    outputs, densities = _tensors(reference, log_densities, slice(None), device)
    with torch.no_grad():
        posterior, marginal = guard._by_block(outputs.early, outputs.predicted)
        for tails, values in ((guard.evidence_tails, posterior), (guard.early_tails, marginal)):
            for tail, part in zip(tails, values, strict=True):
                _fit(tail, part)
        parts = guard.parts(outputs, densities)
        for name, tail in zip(guard.names, guard.tails, strict=True):
            _fit(tail, parts[name])
    return guard


def _fit(tail: nn.Module, scores: Tensor) -> None:
    assert isinstance(tail, Tail)
    tail.fit(scores)


def _learn(guard: Guard, x: Tensor, predicted: Tensor, s: Settings) -> None:
    """Train the probe on standardised early features (n, m) and predictions (n,).

    Everything that is drawn is drawn on the CPU, so that the probe is the same on every device.
    """
    torch.manual_seed(s.seed)
    for layer in guard.probe.cpu():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    guard.probe.to(x.device)
    hidden, last = guard.probe[:2], guard.probe[3]
    optimiser = torch.optim.Adam(guard.probe.parameters(), s.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s.epochs)
    generator = torch.Generator().manual_seed(s.seed)
    guard.train()
    for _ in progress.bar(range(s.epochs), "epochs of the probe"):
        for batch in torch.randperm(len(x), generator=generator).split(s.batch_size):
            y = hidden(x[batch])
            kept = torch.empty(y.shape).bernoulli_(1 - DROPPED).div_(1 - DROPPED).to(y.device)
            loss = functional.cross_entropy(last(y * kept), predicted[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        decay.step()
    guard.eval().requires_grad_(False)


def save(guard: Guard, path: Path) -> None:
    """Write the fitted guard to one file."""
    keys = ("widths", "hidden", "classes", "densities")
    form = {key: getattr(guard, key) for key in keys}
    save_tensors(path, guard.state_dict(), form)


def load(path: Path) -> Guard:
    """Read what save wrote, in evaluation mode. Raises InputError where the file is corrupt or of
    another kind.
    """
    tensors, form = load_tensors(path)
    try:
        guard = Guard(**form)
        for key in [key for key in tensors if key.startswith("gaussians.")]:
            _, block, part = key.split(".")
            guard.gaussians[int(block)].register_buffer(part, tensors[key])
        guard.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            path, "content", str(error).splitlines()[0], "a guard that stage detectors wrote"
        ) from None
    return guard.eval().requires_grad_(False)
