"""The density of features: preprocessing, normalizing flow, and a Gaussian to hold it against
(Shao, Song, Ermon 2020).

T = S o C: C takes features z to coordinates, S standardises those. log p(z) = log p_flow(T(z)) +
log |det S|, in nats, is the density of the coordinates C(z), in their own units:

- raw: the columns of z (that vary);
- pca: orthonormal projections of z;
- direction_norm: orthonormal projections of z / |z|, and log |z|. Its reference measure does not
  change when all features are multiplied by a constant. In units of z the density would have the
  factor |z|^-m: shorter feature vectors would be likelier, and classifiers give short ones to what
  they do not know.
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
from mistakes.detectors import flows
from mistakes.errors import ArgumentError, InputError

SMALLEST_NORM = (
    1e-6  # a feature vector of zeros has no direction; it gets this norm, and so a very low density
)
RESOLVED = 1e-7  # of a number's size: smaller differences are float32's own
SINGULAR = (
    1e-8  # of the largest variance of coordinates: a direction with less depends on the others
)


class DivergenceError(ArithmeticError):
    """The flow's loss became NaN, infinite or absurd."""


@dataclass(frozen=True)
class Form:
    """All that is needed to rebuild a flow before its weights are loaded."""

    kind: str  # maf, realnvp or spline
    transform: str  # raw, pca or direction_norm
    layers: int
    hidden: int  # units of each hidden layer
    features: int  # d, columns of z
    coordinates: int  # columns of T(z)


class Preprocessing(nn.Module):
    """T: features z (n, d) to standardised coordinates (n, m), with its log-determinant.

    raw : z, without columns that never vary. m <= d.
    pca : the first m principal components of z.
    direction_norm : the first m - 1 principal components of the direction u = z / |z|, and log |z|.
    """

    mean: Tensor
    basis: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, transform: str, features: int, coordinates: int) -> None:
        """Make an unfitted map; ``fit`` or ``load_state_dict`` fills it."""
        super().__init__()
        self.transform = transform
        columns = coordinates - (transform == "direction_norm")
        self.register_buffer("mean", torch.zeros(features))  # (d,)
        self.register_buffer("basis", torch.zeros(features, columns))  # orthonormal columns
        self.register_buffer("shift", torch.zeros(coordinates))  # (m,)
        self.register_buffer("scale", torch.ones(coordinates))  # (m,)

    @classmethod
    def fit(cls, z: Tensor, transform: str, components: int) -> "Preprocessing":
        """Fit on features (n, d); ``components`` counts principal components and is ignored by
        ``raw``.

        Raises ArgumentError where there are fewer directions with variance than ``components``, or
        none.
        """
        norm, u = _norm_and_direction(z)
        _refuse_constant(z, transform, norm, u)
        source = (u if transform == "direction_norm" else z).double()
        mean = source.mean(0)
        if transform == "raw":
            basis = torch.eye(z.shape[1], dtype=torch.double)[:, _varies(source)]
        else:
            eigenvalues, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov(source.T)))
            resolved = RESOLVED**2 * float(source.square().sum(1).mean())
            varying = int((eigenvalues > max(1e-10 * float(eigenvalues[-1]), resolved)).sum())
            if components > varying:
                raise ArgumentError("components", components, f"at most {varying}, which vary")
            basis = _fix_signs(vectors.flip(1)[:, :components])
        fitted = cls(transform, z.shape[1], basis.shape[1] + (transform == "direction_norm"))
        fitted.mean, fitted.basis = mean.float(), basis.float()
        y = fitted._coordinates(z).double()
        fitted.shift, fitted.scale = y.mean(0).float(), y.std(0).float()
        return fitted

    def _coordinates(self, z: Tensor) -> Tensor:
        if self.transform != "direction_norm":
            return (z - self.mean) @ self.basis
        norm, u = _norm_and_direction(z)
        return torch.cat([(u - self.mean) @ self.basis, norm.log()], dim=1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates (n, m) and the log-determinant (n,), nats."""
        y = (self._coordinates(z) - self.shift) / self.scale
        return y, -self.scale.log().sum().expand(len(z))


def _varies(x: Tensor) -> Tensor:
    """Tell which columns of x (n, m) vary by more than their numbers resolve."""
    return x.std(0) > RESOLVED * x.abs().amax(0)


def _refuse_constant(z: Tensor, transform: str, norm: Tensor, u: Tensor) -> None:
    if not torch.isfinite(norm).all():
        raise InputError(
            "features", "the square of the length of a row of fit is more than float32 holds"
        )
    if not _varies(z.double()).any():
        raise ArgumentError(
            "transform", problem=f"{transform} has nothing to fit: the features do not vary"
        )
    one = "length (or lengths below 1e-6)" if _varies(u.double()).any() else "direction"
    if transform == "direction_norm" and (one == "direction" or norm.double().log().std() < 1e-6):
        raise ArgumentError(
            "transform", transform, f"pca or raw, since all features have one {one}"
        )


def _refuse_singular(y: Tensor, transform: str, components: int) -> None:
    """Raise InputError where coordinates y (n, m) are linear functions of each other: they have no
    density then.
    """
    variances = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(y.double().T)))
    independent, m = int((variances > SINGULAR * variances[-1]).sum()), y.shape[1]
    if independent < m and transform == "raw":
        why = (
            f"only {independent} of the {m} columns that vary are linearly independent on {len(y)}"
            " rows"
        )
        raise ArgumentError("transform", transform, f"pca, since {why}")
    if independent < m:
        expected = f"at most {components - (m - independent)} with the {len(y)} rows that there are"
        raise ArgumentError("components", components, expected)


def _norm_and_direction(z: Tensor) -> tuple[Tensor, Tensor]:
    norm = z.norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)
    return norm, z / norm


def _fix_signs(vectors: Tensor) -> Tensor:
    """Make the largest entry of each column positive: eigenvectors have no sign of their own."""
    largest = vectors.abs().argmax(0)
    return vectors * vectors[largest, torch.arange(vectors.shape[1])].sign()


class Density(nn.Module):
    """A fitted density of features. ``flow`` and ``gaussian`` share one preprocessing, so they can
    be compared.
    """

    gaussian_mean: Tensor
    gaussian_cholesky: Tensor

    def __init__(self, form: Form, preprocessing: Preprocessing | None = None) -> None:
        """Make an unfitted flow around ``preprocessing`` (or an unfitted one, to be loaded)."""
        super().__init__()
        self.form = form
        self.preprocessing = preprocessing or Preprocessing(
            form.transform, form.features, form.coordinates
        )
        self.flow: Any = flows.build(form.kind, form.coordinates, form.hidden, form.layers)
        self.register_buffer("gaussian_mean", torch.zeros(form.coordinates))
        self.register_buffer("gaussian_cholesky", torch.eye(form.coordinates))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) (n,), nats, of features (n, d); differentiable."""
        y, log_determinant = self.preprocessing(z)
        return self.flow.log_prob(y) + log_determinant

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
) -> Fitted:
    """Fit a flow to features ``z`` (n, d); of its epochs keep the one with the best NLL on
    ``z_select`` (m, d).

    ``on_epoch(epoch, loss=, nll_val=)`` is called after each epoch. Raises DivergenceError, and
    InputError where ``components`` is too large, or ``transform`` leaves coordinates that have no
    density.
    """
    if len(z) < 2 or not len(z_select):
        there = f"{len(z)} to fit the flow to and {len(z_select)} to stop it by"
        raise InputError(
            "features", f"too few rows, {there}, expected at least 2 and 1 (images.val, flow.split)"
        )
    torch.manual_seed(optimisation.seed)
    fit_features, select = torch.as_tensor(z.copy()), torch.as_tensor(z_select.copy()).to(device)
    preprocessing = Preprocessing.fit(fit_features, transform, components)
    form = Form(kind, transform, layers, hidden, z.shape[1], len(preprocessing.shift))
    density = Density(form, preprocessing).to(device)
    y, log_determinant = density.preprocessing(fit_features.to(device))
    _refuse_singular(y, transform, components)
    density.gaussian_mean, density.gaussian_cholesky = y.mean(0), _cholesky(y)
    nll_gaussian = -_mean(density.gaussian_log_prob, select)
    history = _optimise(density, y, -log_determinant.mean().item(), select, optimisation, on_epoch)
    best = min(history, key=lambda row: row["nll_val"])
    nll_fit = -_mean(density.log_prob, fit_features.to(device))
    return Fitted(
        density.eval().cpu(), int(best["epoch"]), nll_fit, best["nll_val"], nll_gaussian, history
    )


def _cholesky(y: Tensor) -> Tensor:
    """Return the Cholesky factor of the covariance of y (n, m); in float64 where float32 does not
    suffice.
    """
    lower, failed = torch.linalg.cholesky_ex(torch.atleast_2d(torch.cov(y.T)))
    return torch.linalg.cholesky(torch.cov(y.double().T)).float() if failed else lower


def _optimise(
    density: Density,
    y: Tensor,
    offset: float,
    select: Tensor,
    o: Optimisation,
    on_epoch: Callable[..., None],
) -> list[dict[str, float]]:
    """Fit ``density.flow`` to ``y``, keep its best epoch, and return the history."""
    optimiser = torch.optim.Adam(density.flow.parameters(), o.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, o.epochs)
    generator = torch.Generator().manual_seed(o.seed)
    best_nll, best_epoch, best = float("inf"), 0, density.flow.state_dict()
    history = []
    for epoch in progress.bar(range(1, o.epochs + 1), "epochs"):
        density.train()
        total = 0.0
        for batch in torch.randperm(len(y), generator=generator).split(o.batch_size):
            loss = -density.flow.log_prob(y[batch]).mean()
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


@torch.no_grad()
def _mean(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> float:
    return torch.cat([log_prob(part) for part in z.split(10_000)]).double().mean().item()


@torch.no_grad()
def evaluate(log_prob: Callable[[Tensor], Tensor], z: Array) -> Array:
    """Return ``log_prob`` of features (n, d), nats (n,), float32; float64 where float32 cannot hold
    one of them. Where ``log_prob`` is a Density's, it is computed on that one's device.
    """
    density = getattr(log_prob, "__self__", None)
    device = devices.of(density) if isinstance(density, Density) else devices.CPU
    parts = [
        log_prob(torch.as_tensor(z[i : i + 10_000].copy()).to(device)).cpu()
        for i in range(0, max(1, len(z)), 10_000)
    ]
    found = torch.cat(parts)
    far = ~torch.isfinite(found)
    if far.any() and isinstance(density, Density):
        wide = getattr(copy.deepcopy(density).double(), log_prob.__name__)
        found = found.double()
        found[far] = wide(torch.as_tensor(z[far.numpy()]).double().to(device)).cpu()
    return found.numpy()


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
    """Write flow, preprocessing and Gaussian to one file."""
    save_tensors(path, density.state_dict(), asdict(density.form))


def load(path: Path) -> Density:
    """Rebuild what save wrote, in evaluation mode. Raises InputError where the file is corrupt or
    of another kind.
    """
    tensors, description = load_tensors(path)
    try:
        density = Density(Form(**description))
        density.preprocessing.basis = torch.empty_like(tensors["preprocessing.basis"])
        density.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            path, "content", str(error).splitlines()[0], "a flow that stage flow wrote"
        ) from None
    return density.eval()
