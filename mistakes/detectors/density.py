"""The density of features: preprocessing, normalizing flow, and a Gaussian to hold it against
(Shao, Song, Ermon 2020).

T = S o C: C takes features z to coordinates, S standardises those. log p(z) = log p_flow(T(z)) +
log |det S|, in nats, is the density of the coordinates C(z), in their own units:

- raw: the columns of z (that vary);
- pca: orthonormal projections of z;
- log_pca: orthonormal projections of sign(z) log(1 + |z|), in which large features weigh less;
- direction_norm: orthonormal projections of z / |z|, and log |z|. Its reference measure does not
  change when all features are multiplied by a constant. In units of z the density would have the
  factor |z|^-m: shorter feature vectors would be likelier, and classifiers give short ones to what
  they do not know.

One density of all features builds bridges between the classes, and mistakes and attacks lie on
bridges. So the flow may be conditioned on the class y^ that the classifier predicts itself, by
which no label is seen: p(z | y), and with the shares pi_y of the predictions on fit p(z) =
sum_y pi_y p(z | y) and p(z, y^) = pi_y^ p(z | y^). A class that is hardly predicted on fit has the
density of the others.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mistakes import devices, progress
from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.data.features import Batch
from mistakes.detectors import flows, gaussians
from mistakes.detectors.preprocessing import Preprocessing, refuse_singular
from mistakes.errors import InputError


class DivergenceError(ArithmeticError):
    """The flow's loss became NaN, infinite or absurd."""


@dataclass(frozen=True)
class Form:
    """All that is needed to rebuild a flow before its weights are loaded."""

    kind: str  # maf, realnvp or spline
    transform: str  # raw, pca, log_pca or direction_norm
    layers: int
    hidden: int  # units of each hidden layer
    features: int  # d, columns of z
    coordinates: int  # columns of T(z)
    condition: str = "none"  # on the predicted class: none, prediction or base (module flows)
    classes: int = 1  # 1 for none


class Density(nn.Module):
    """A fitted density of features. ``flow`` and ``gaussian`` share one preprocessing, so they can
    be compared.

    others : densities of other representations of the same features, beside this one.
    """

    log_prior: Tensor
    rare: Tensor
    gaussian_mean: Tensor
    gaussian_cholesky: Tensor

    def __init__(self, form: Form, preprocessing: Preprocessing | None = None) -> None:
        """Make an unfitted flow around ``preprocessing`` (or an unfitted one, to be loaded)."""
        super().__init__()
        self.form = form
        self.preprocessing = preprocessing or Preprocessing(
            form.transform, form.features, form.coordinates
        )
        self.flow = flows.ClassFlow(
            form.kind, form.coordinates, form.hidden, form.layers, form.condition, form.classes
        )
        self.others = nn.ModuleList()
        prior = torch.full((form.classes,), 1 / form.classes)
        self.register_buffer("log_prior", prior.log())  # (k,)
        self.register_buffer("rare", torch.zeros(form.classes, dtype=torch.bool))  # (k,)
        self.register_buffer("gaussian_mean", torch.zeros(form.coordinates))
        self.register_buffer("gaussian_cholesky", torch.eye(form.coordinates))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) (n,), nats, of features (n, d); differentiable."""
        return self.log_joint(z).logsumexp(1)

    def log_joint(self, z: Tensor) -> Tensor:
        """Return log p(z, y), nats, of features (n, d) and each class (n, k); differentiable.

        The only column of a density that is not conditioned is log p(z).
        """
        y, log_determinant = self.preprocessing(z)
        joint = self.log_prior + self.flow.log_probs(y)
        if self.rare.any():
            others = joint[:, ~self.rare].logsumexp(1) - self.log_prior[~self.rare].logsumexp(0)
            joint = torch.where(self.rare, self.log_prior + others[:, None], joint)
        return joint + log_determinant[:, None]

    def log_joint_at(self, z: Tensor, predicted: Tensor) -> Tensor:
        """Return log p(z, y), nats (n,), of features (n, d) and predicted classes y int64 (n,);
        differentiable. One pass, but where a class is rare.
        """
        if self.form.condition == "none":
            return self.log_joint(z)[:, 0]
        if self.rare.any():
            return self.log_joint(z).gather(1, predicted[:, None])[:, 0]
        y, log_determinant = self.preprocessing(z)
        return self.log_prior[predicted] + self.flow.log_prob(y, predicted) + log_determinant

    def log_joints_at(self, z: Tensor, predicted: Tensor) -> Tensor:
        """Return log_joint_at of this density and of the others, (n, 1 + len(others))."""
        every = [self, *self.others]
        return torch.stack([one.log_joint_at(z, predicted) for one in every], dim=1)

    def gaussian_log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) (n,), nats, under the full-covariance Gaussian fitted to the same
        coordinates.
        """
        y, log_determinant = self.preprocessing(z)
        normal = torch.distributions.MultivariateNormal(
            self.gaussian_mean, scale_tril=self.gaussian_cholesky
        )
        return normal.log_prob(y) + log_determinant


@dataclass(frozen=True)
class Given:
    """What the flow is conditioned on: the classifier's predictions, int64, on fit and on the
    features that select.
    """

    condition: str  # prediction or base
    classes: int
    predicted: Array  # (n,)
    predicted_select: Array  # (m,)


@dataclass(frozen=True)
class Optimisation:
    """How a flow is fitted: Adam, cosine decay, clipped gradients, stop after ``patience`` epochs
    without progress.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    gradient_clip: float
    seed: int


@dataclass(frozen=True)
class Fitted:
    """A fitted density with its evidence; NLL in nats per sample, raw feature units."""

    density: Density
    best_epoch: int
    nll_fit: float
    nll_select: float
    nll_select_gaussian: float
    history: list[dict[str, float]]  # epoch, loss and nll_val of each epoch


def fit(
    z: Array,
    z_select: Array,
    kind: str,
    transform: str,
    components: int,
    layers: int,
    hidden: int,
    optimisation: Optimisation,
    device: torch.device,
    on_epoch: Callable[..., None],
    given: Given | None = None,
) -> Fitted:
    """Fit a flow to features ``z`` (n, d); of its epochs keep the one with the best NLL on
    ``z_select`` (m, d).

    given : None for a flow that is not conditioned.
    ``on_epoch(epoch, loss=, nll_val=)`` is called after each epoch. Raises DivergenceError, and
    InputError where ``components`` is too large, or ``transform`` leaves coordinates that have no
    density.
    """
    if len(z) < 2 or not len(z_select):
        there = f"{len(z)} to fit the flow to and {len(z_select)} to stop it by"
        raise InputError("features", f"too few rows, {there}, expected at least 2 and 1")
    torch.manual_seed(optimisation.seed)
    fit_features, select = torch.as_tensor(z.copy()), torch.as_tensor(z_select.copy()).to(device)
    prepared = Preprocessing.fit(fit_features, transform, components)
    form = Form(
        kind,
        transform,
        layers,
        hidden,
        z.shape[1],
        len(prepared.shift),
        given.condition if given else "none",
        given.classes if given else 1,
    )
    density = Density(form, prepared).to(device)
    predicted = torch.as_tensor(given.predicted if given else np.zeros(len(z), np.int64))
    density.log_prior, density.rare = (part.to(device) for part in _prior(predicted, form.classes))
    y, log_determinant = density.preprocessing(fit_features.to(device))
    refuse_singular(y, transform, components)
    density.gaussian_mean, density.gaussian_cholesky = y.mean(0), _cholesky(y)
    nll_gaussian = -_mean(density.gaussian_log_prob, select)
    y_given = (y, predicted.to(device))
    offset = -log_determinant.mean().item() - density.log_prior.cpu()[predicted].mean().item()
    history = _optimise(density, y_given, offset, select, optimisation, on_epoch)
    best = min(history, key=lambda row: row["nll_val"])
    nll_fit = -_mean(density.log_prob, fit_features.to(device))
    return Fitted(
        density.eval().cpu(), int(best["epoch"]), nll_fit, best["nll_val"], nll_gaussian, history
    )


def _prior(predicted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the log of each class's share of ``predicted`` (n,), float32 (k,), and which are rare,
    bool (k,): too few to be told what their features are like.
    """
    counts = predicted.bincount(minlength=classes)
    rare = counts < gaussians.FEW
    if rare.all():
        rare = counts == 0
    shares = counts.clamp(min=1).float()
    return (shares / shares.sum()).log(), rare


def _cholesky(y: Tensor) -> Tensor:
    """Return the Cholesky factor of the covariance of y (n, m); in float64 where float32 does not
    suffice.
    """
    lower, failed = torch.linalg.cholesky_ex(torch.atleast_2d(torch.cov(y.T)))
    return torch.linalg.cholesky(torch.cov(y.double().T)).float() if failed else lower


def _optimise(
    density: Density,
    y_given: tuple[Tensor, Tensor],
    offset: float,
    select: Tensor,
    o: Optimisation,
    on_epoch: Callable[..., None],
) -> list[dict[str, float]]:
    """Fit ``density.flow`` to coordinates and classes, ``y_given``, keep its best epoch, and return
    the history.
    """
    y, given = y_given
    optimiser = torch.optim.Adam(density.flow.parameters(), o.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, o.epochs)
    generator = torch.Generator().manual_seed(o.seed)
    best_nll, best_epoch, best = float("inf"), 0, density.flow.state_dict()
    history = []
    for epoch in progress.bar(range(1, o.epochs + 1), "epochs"):
        density.train()
        total = 0.0
        for batch in torch.randperm(len(y), generator=generator).split(o.batch_size):
            loss = -density.flow.log_prob(y[batch], given[batch]).mean()
            if not torch.isfinite(loss):
                raise DivergenceError(f"loss {loss.item()} in epoch {epoch}")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(density.flow.parameters(), o.gradient_clip)
            optimiser.step()
            total += loss.item() * len(batch)
        decay.step()
        nll = -_mean(density.eval().log_prob, select)
        if not math.isfinite(nll):
            raise DivergenceError(f"NLL {nll} on held-out features in epoch {epoch}")
        row = {"loss": total / len(y) + offset, "nll_val": nll}
        on_epoch(epoch, **row)
        history.append({"epoch": epoch, **row})
        if nll < best_nll:
            best_nll, best_epoch, best = nll, epoch, copy.deepcopy(density.flow.state_dict())
        if epoch - best_epoch >= o.patience:
            break
    density.flow.load_state_dict(best)
    return history


def _rows(density: Density) -> int:
    """Return how many inputs are looked at at once: each is repeated for every class."""
    return max(1, 10_000 // (density.form.classes if density.form.condition != "none" else 1))


@torch.no_grad()
def _mean(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> float:
    rows = _rows(log_prob.__self__)  # type: ignore[attr-defined]
    return torch.cat([log_prob(part) for part in z.split(rows)]).double().mean().item()


@torch.no_grad()
def evaluate(log_prob: Callable[..., Tensor], z: Array, predicted: Array | None = None) -> Array:
    """Return ``log_prob`` of features (n, d), nats (n,) or (n, r), float32; float64 where float32
    cannot hold one of them.

    log_prob : a method of a Density, computed on that one's device, or a function of z. predicted :
    the classes int64 (n,) that it takes too, where it does.
    """
    density = getattr(log_prob, "__self__", None)
    device = devices.of(density) if isinstance(density, Density) else devices.CPU

    def inputs(rows: Any) -> list[Tensor]:
        given = (z,) if predicted is None else (z, predicted)
        return [torch.as_tensor(part[rows].copy()).to(device) for part in given]

    size = _rows(density) if isinstance(density, Density) else 10_000
    starts = range(0, max(1, len(z)), size)
    found = torch.cat([log_prob(*inputs(slice(i, i + size))).cpu() for i in starts])
    far = ~torch.isfinite(found if found.dim() == 1 else found.sum(1))
    if far.any() and isinstance(density, Density):
        wide = getattr(copy.deepcopy(density).double(), log_prob.__name__)
        found = found.double()
        features, *classes = inputs(far.numpy())
        found[far] = wide(features.double(), *classes).cpu()
    return found.numpy()


def log_joints(density: Density, batch: Batch) -> Array:
    """Return log p(z, y) of the predicted class y, nats, float64 (n, r), by the density and its
    others.
    """
    found = evaluate(density.log_joints_at, batch.features, batch.predicted)
    return found.astype(np.float64)


@torch.no_grad()
def place(density: Density, z: Array) -> Array:
    """Return the first two coordinates in which the flow sees features (n, d), float64 (n, 2).

    For drawing only. The second is 0 where the flow has one coordinate.
    """
    wide = copy.deepcopy(density.preprocessing).double().cpu()
    starts = range(0, max(1, len(z)), 10_000)
    parts = [wide(torch.as_tensor(z[i : i + 10_000].copy()).double())[0][:, :2] for i in starts]
    found = torch.cat(parts).numpy()
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def save(density: Density, path: Path) -> None:
    """Write flow, preprocessing and Gaussian, and those of the others, to one file."""
    others = [asdict(other.form) for other in density.others if isinstance(other, Density)]
    save_tensors(path, density.state_dict(), asdict(density.form) | {"others": others})


def load(path: Path) -> Density:
    """Rebuild what save wrote, in evaluation mode. Raises InputError where the file is corrupt or
    of another kind.
    """
    tensors, description = load_tensors(path)
    try:
        others = description.pop("others")
        density = Density(Form(**description))
        density.others.extend(Density(Form(**form)) for form in others)
        for name, module in density.named_modules():
            if isinstance(module, Preprocessing):
                module.basis = torch.empty_like(tensors[f"{name}.basis"])
        density.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            path, "content", str(error).splitlines()[0], "a flow that stage flow wrote"
        ) from None
    return density.eval()
