"""The guard: one score for mistakes, adversarial and out-of-distribution inputs, from five ways to
look at an input.

Let y be the class that the classifier predicts. Each part is a score, and becomes a p-value under
successes:

- confidence: -log p(y | x) of the classifier;
- probe: -log p(y | early features) of a small network that learned the classifier's own
  predictions on fit;
- evidence: -log p(y | block) by Bayes' rule from class-conditional Gaussians of each block's early
  features, their p-values combined as Fisher does. An attack moves the last layer far and the first
  ones little: they object;
- early_density: -log p(block) from the same Gaussians, combined likewise;
- density: -log p(z) of the normalizing flow on the features.

guard = max over parts of log(share / p): Bonferroni's minimum with alpha divided into shares
(Genovese et al. 2006). No label of a training image is used. The p-values only make parts
comparable; that a share alpha of successes is flagged is due to the calibration of the guard itself
on cal, which no part has seen. Without early features (outputs given as files) confidence and
density are left, and their shares are scaled to 1 in all. A class that is predicted for few images
of fit, or for none, has the covariance of all (module gaussians).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistakes import devices, progress
from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.detectors import gaussians
from mistakes.detectors.detector import Detector
from mistakes.detectors.pareto_tail import Tail
from mistakes.errors import InputError

PARTS = ("confidence", "probe", "evidence", "early_density", "density")
LAST = ("confidence", "density")  # the parts that are left where there are no early features
FARTHEST = 1e15  # standard deviations that the probe tells apart; sums of more would leave float32
DROPPED = 0.2  # share of the probe's hidden units, in training
_ROWS = 1000  # scored at once


@dataclass(frozen=True)
class Settings:
    """The section ``detectors.guard`` of params.yaml, explained there."""

    seed: int
    shares: dict[str, float]
    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float


class Guard(nn.Module):
    """The fitted guard; differentiable, so that it can be attacked."""

    centre: Tensor
    scale: Tensor
    shares: Tensor

    def __init__(self, widths: Sequence[int], hidden: int, classes: int) -> None:
        """Make an unfitted guard for early features (n, m_i) of ``widths`` m_i and ``classes``
        predicted classes.
        """
        super().__init__()
        self.widths, self.hidden, self.classes = list(widths), hidden, classes
        self.names = PARTS if widths else LAST
        total = sum(widths)
        self.register_buffer("centre", torch.zeros(total))
        self.register_buffer("scale", torch.ones(total))
        self.register_buffer("shares", torch.ones(len(self.names), dtype=torch.double))
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

    def forward(self, early: Sequence[Tensor], logits: Tensor, log_density: Tensor) -> Tensor:
        """Return the score, float64 (n,), of early features, logits (n, k) and log p(z) (n,), nats;
        see the module.
        """
        return self.surprises(early, logits, log_density).amax(1)

    def surprises(self, early: Sequence[Tensor], logits: Tensor, log_density: Tensor) -> Tensor:
        """Return log(share / p) of each of ``names``, float64 (n, len(names)); the largest of a row
        is the score.
        """
        parts = self.parts(early, logits, log_density)
        surprises = [tail(parts[name]) for name, tail in zip(self.names, self.tails, strict=True)]
        return torch.stack(surprises, dim=1) + self.shares.log()

    def parts(
        self, early: Sequence[Tensor], logits: Tensor, log_density: Tensor
    ) -> dict[str, Tensor]:
        """Return PARTS, or LAST without early features, each float64 (n,)."""
        last = {
            "confidence": negative_log_softmax(logits.double(), logits.argmax(1)),
            "density": -log_density.double(),
        }
        if not self.widths:
            return last
        posterior, marginal = self._by_block(early, logits.argmax(1))
        return {
            "confidence": last["confidence"],
            "probe": negative_log_softmax(self._probe(early), logits.argmax(1)),
            "evidence": (
                torch.stack(
                    [t(part) for t, part in zip(self.evidence_tails, posterior, strict=True)]
                ).sum(0)
            ),
            "early_density": (
                torch.stack(
                    [t(part) for t, part in zip(self.early_tails, marginal, strict=True)]
                ).sum(0)
            ),
            "density": last["density"],
        }

    def reweighted(self) -> dict[str, float]:
        """Return the shares of the parts that are left where some are absent, 1 in all; else
        nothing.
        """
        return {} if self.widths else dict(zip(self.names, self.shares.tolist(), strict=True))

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

    def score(self, early: Sequence[Array], logits: Array, log_density: Array) -> Array:
        """Return what forward does, for arrays of any length."""
        return self.explain(early, logits, log_density).max(1)

    @torch.no_grad()
    def explain(self, early: Sequence[Array], logits: Array, log_density: Array) -> Array:
        """Return what surprises does, for arrays of any length."""
        device = devices.of(self)
        parts = [
            self.surprises(*_tensors(early, logits, log_density, slice(i, i + _ROWS), device))
            for i in range(0, max(1, len(logits)), _ROWS)
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
    early: Sequence[Array], logits: Array, log_density: Array, rows: slice, device: torch.device
) -> tuple[list[Tensor], Tensor, Tensor]:
    # copies, for stored arrays are mapped read-only
    *parts, f, density = (
        torch.as_tensor(part[rows].copy()).to(device) for part in (*early, logits, log_density)
    )
    return parts, f, density


def fit(
    early: Sequence[Array],
    logits: Array,
    reference: tuple[Sequence[Array], Array, Array],
    settings: Settings,
    device: torch.device = devices.CPU,
) -> Guard:
    """Fit, on ``device``, on early features (n, m_i) and logits (n, k) of fit.

    reference : early features, logits and log p(z) of correctly classified images of val, whose
    p-values make the parts comparable. Raises InputError where there are none.
    """
    if not len(reference[1]):
        raise InputError(
            "val",
            "no input is classified correctly, so nothing makes the parts of the guard comparable",
        )
    predicted = torch.as_tensor(logits.argmax(1)).to(device)
    guard = Guard([part.shape[1] for part in early], settings.hidden, logits.shape[1]).to(device)
    if guard.widths:
        blocks = [torch.as_tensor(part.copy()).to(device) for part in early]
        whole = torch.cat(blocks, dim=1)
        guard.centre, guard.scale = whole.mean(0), whole.std(0).clamp(min=1e-6)
        for kept, block in zip(guard.gaussians, blocks, strict=True):
            assert isinstance(kept, Detector)
            kept.keep(**gaussians.of_classes(block.double(), predicted, guard.classes))
        _learn(guard, (whole - guard.centre) / guard.scale, predicted, settings)
    shares = torch.tensor([settings.shares[name] for name in guard.names], dtype=torch.double)
    guard.shares = (shares if guard.widths else shares / shares.sum()).to(device)
    tensors = _tensors(*reference, slice(None), device)
    with torch.no_grad():
        posterior, marginal = guard._by_block(tensors[0], tensors[1].argmax(1))
        for tails, values in ((guard.evidence_tails, posterior), (guard.early_tails, marginal)):
            for tail, part in zip(tails, values, strict=True):
                _fit(tail, part)
        for tail, part in zip(guard.tails, guard.parts(*tensors).values(), strict=True):
            _fit(tail, part)
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
    form = {"widths": guard.widths, "hidden": guard.hidden, "classes": guard.classes}
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
