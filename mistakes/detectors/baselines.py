"""Baseline detectors on stored features z (n, d) and logits f (n, k). Higher = more anomalous, for
each of them.

One implementation serves stored arrays and adaptive attacks: every score has a gradient. Three come
from pytorch-ood; its others have none, compute in float32 and add 1e-6 to the diagonal of
covariances that are singular (module gaussians), or clip probabilities at 1e-7, which ties
confident inputs. The tests compare them with these.

msp : -max_y p(y|z) (Hendrycks, Gimpel 2017).  entropy : of p(y|z), nats.  energy : -log sum exp f
(Liu et al. 2020). max_logit : -max f (Hendrycks et al. 2022).  gen : sum of p^g (1 - p)^g over the
M largest p (Liu et al. 2023). mahalanobis : min_y (z - mu_y)^T Sigma^-1 (z - mu_y) (Lee et al.
2018). relative_mahalanobis : that, minus the distance to one Gaussian for all (Ren et al. 2021).
class_gaussians : -log sum_y pi_y N(z; mu_y, Sigma_y), nats (DDU, Mukhoti et al. 2023). gmm : -log
density, nats, of a mixture fitted without labels to principal components. knn : distance of z / |z|
to its k-th nearest neighbour (Sun et al. 2022). vim : alpha |residual of z| - log sum exp f (Wang
et al. 2022).

A baseline that does not apply to the features, the logits or the number of images is left out, with
the reason.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax
from torch import Tensor

from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.detectors import gaussians
from mistakes.detectors.gaussians import InapplicableError, State
from mistakes.errors import InputError

# residual of logits in features, relative to the logits' spread, up to which they count as linear
LINEAR = 1e-3
_ROWS = 1000  # scored at once
_QUERIES = 250  # whose distances to the whole bank are in memory at once: 50 MB for 50,000


@dataclass(frozen=True)
class Settings:
    """The section ``detectors`` of params.yaml, explained there."""

    seed: int
    gen_gamma: float
    gen_largest: int | None
    gmm_components: int
    gmm_principal: int
    knn_k: int
    knn_bank: int
    vim_share: float | None


@dataclass(frozen=True)
class Data:
    """What baselines are fitted on: features float64 (n, d), logits float64 (n, k), labels int64
    (n,).
    """

    z: Tensor
    f: Tensor
    labels: Tensor


def _entropy(f: Tensor) -> Tensor:
    log_p = f.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def _gen_fit(_data: Data, s: Settings) -> State:
    state = {"gamma": torch.tensor(s.gen_gamma, dtype=torch.double)}
    return state if s.gen_largest is None else state | {"largest": torch.tensor(s.gen_largest)}


def _gen(state: State, f: Tensor) -> Tensor:
    log_p = f.log_softmax(1).sort(1, descending=True).values
    # 1 - p of the largest is the sum of the others: no digit is lost where p rounds to 1
    log_rest = torch.cat(
        [log_p[:, 1:].logsumexp(1, keepdim=True), torch.log1p(-log_p[:, 1:].exp())], dim=1
    )
    terms = (state["gamma"] * (log_p + log_rest)).exp()
    return terms[:, : int(state["largest"]) if "largest" in state else None].sum(1)


def _relative(state: State, z: Tensor) -> Tensor:
    background = gaussians.squared_distances(state, z, "background_")[:, 0]
    return gaussians.squared_distances(state, z).amin(1) - background


def _unit(z: Tensor) -> Tensor:
    """Return z / |z|; a vector of zeros has no direction and stays, at distance 1 from all."""
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _knn_fit(data: Data, s: Settings) -> State:
    size = min(s.knn_bank, len(data.z))
    if size < s.knn_k:
        raise InapplicableError(f"detectors.knn_k is {s.knn_k}, and the bank has {size} images")
    chosen = np.sort(np.random.default_rng(s.seed).permutation(len(data.z))[:size])
    return {"bank": _unit(data.z[torch.as_tensor(chosen)]).float(), "k": torch.tensor(s.knn_k)}


def _knn(state: State, z: Tensor) -> Tensor:
    """Find the neighbours in float32 and without gradient; the distance to the k-th is float64 and
    has one.
    """
    u, bank, k = _unit(z), state["bank"], int(state["k"])
    queries = u.detach().float().split(_QUERIES)
    neighbour = torch.cat([(part @ bank.T).topk(k, dim=1).indices[:, -1] for part in queries])
    return (u - bank[neighbour]).norm(dim=1)


def _vim_fit(data: Data, s: Settings) -> State:
    """Fit ViM. The last layer is recovered from what it did: logits = W z + b, by least squares of
    least norm.

    That is exact in the directions in which the features vary; in the others W is 0, and so is the
    origin -W^+ b. Raises InapplicableError where the logits are not linear in the features, so that
    there is no such W.
    """
    assert s.vim_share is not None
    mean, centre = data.z.mean(0), data.f.mean(0)
    solved = torch.linalg.lstsq(
        data.z - mean, data.f - centre, rcond=gaussians.VARIES**0.5, driver="gelsd"
    )
    W = solved.solution.T  # (k, d)
    misfit = ((data.z - mean) @ W.T - (data.f - centre)).square().mean().sqrt() / (
        data.f - centre
    ).std()
    if not misfit <= LINEAR:  # or it is NaN, for the logits are constant
        raise InapplicableError("the logits are not linear in the features of this features.layer")
    origin = -torch.linalg.pinv(W) @ (centre - W @ mean)
    x = data.z - origin
    principal = int(s.vim_share * x.shape[1])
    residual = torch.linalg.eigh(x.T @ x / len(x)).eigenvectors[:, : x.shape[1] - principal]
    length = (x @ residual).norm(dim=1).mean()
    if length <= gaussians.VARIES**0.5 * x.norm(dim=1).mean():
        raise InapplicableError(
            f"detectors.vim_share is {s.vim_share}, and nothing of the features is left over"
        )
    return {"origin": origin, "residual": residual, "alpha": data.f.amax(1).mean() / length}


def _vim(state: State, z: Tensor, f: Tensor) -> Tensor:
    return state["alpha"] * ((z - state["origin"]) @ state["residual"]).norm(dim=1) - f.logsumexp(1)


def _varying(state: State) -> State:
    if not state["factors"].shape[-1]:
        raise InapplicableError("the features do not vary within classes")
    return state


def _nothing(_data: Data, _settings: Settings) -> State:
    return {}


Fit = Callable[[Data, Settings], State]
Score = Callable[[State, Tensor, Tensor], Tensor]  # of state, features and logits

_DETECTORS: dict[str, tuple[Fit, Score]] = {
    "msp": (_nothing, lambda _state, _z, f: MaxSoftmax.score(f)),
    "entropy": (_nothing, lambda _state, _z, f: _entropy(f)),
    "energy": (_nothing, lambda _state, _z, f: EnergyBased.score(f)),
    "max_logit": (_nothing, lambda _state, _z, f: MaxLogit.score(f)),
    "gen": (_gen_fit, lambda state, _z, f: _gen(state, f)),
    "mahalanobis": (
        lambda data, _settings: _varying(gaussians.shared(data.z, data.labels)),
        lambda state, z, _f: gaussians.squared_distances(state, z).amin(1),
    ),
    "relative_mahalanobis": (
        lambda data, _settings: _varying(gaussians.relative(data.z, data.labels)),
        lambda state, z, _f: _relative(state, z),
    ),
    "class_gaussians": (
        lambda data, _settings: _varying(gaussians.of_classes(data.z, data.labels)),
        lambda state, z, _f: gaussians.nll(state, z),
    ),
    "gmm": (
        lambda data, s: gaussians.mixture(data.z, s.gmm_components, s.gmm_principal, s.seed),
        lambda state, z, _f: gaussians.nll(state, z),
    ),
    "knn": (_knn_fit, lambda state, z, _f: _knn(state, z)),
    "vim": (_vim_fit, _vim),
}
NAMES = tuple(_DETECTORS)


@dataclass(frozen=True)
class Baselines:
    """Fitted baselines: for each its named tensors, everything that scoring needs; for those left
    out the reason.
    """

    states: dict[str, State]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The baselines that were fitted: those of NAMES that apply, vim where it is asked for."""
        return tuple(self.states)

    def score_tensors(
        self, z: Tensor, logits: Tensor, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Return the scores ``names`` (all of them by default), float64 (n,), of features (n, d)
        and logits (n, k).

        Has the gradient of each score (of kNN: with the neighbour held fixed, which is its gradient
        almost everywhere).
        """
        x, f = z.double(), logits.double()
        return {name: _DETECTORS[name][1](self.states[name], x, f) for name in names or self.names}

    @torch.no_grad()
    def score(
        self, features: Array, logits: Array, names: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Return what score_tensors does as arrays, float64 (n,), of arrays of any length."""
        parts = [
            self.score_tensors(
                _tensor(features[start : start + _ROWS]),
                _tensor(logits[start : start + _ROWS]),
                names,
            )
            for start in range(0, max(1, len(features)), _ROWS)
        ]
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

    def to(self, device: torch.device) -> "Baselines":
        """Return the same baselines on ``device``, for attacks there."""
        moved = {
            name: {key: t.to(device) for key, t in state.items()}
            for name, state in self.states.items()
        }
        return Baselines(moved, self.left_out)


def _tensor(array: Array) -> Tensor:
    return torch.as_tensor(array.copy())  # a copy, for stored arrays are mapped read-only


def fit(
    features: Array,
    logits: Array,
    labels: Array,
    settings: Settings,
    names: Sequence[str] | None = None,
) -> Baselines:
    """Fit ``names`` (all of them by default) on training features (n, d), logits (n, k) and labels
    (n,).

    Without vim where ``vim_share`` is None; without those that do not apply, which ``left_out``
    names.
    """
    data, fitted = _data(features, logits, labels), Baselines({})
    for name in names or _wanted(settings):
        _add(fitted, name, data, settings)
    return fitted


def _data(features: Array, logits: Array, labels: Array) -> Data:
    return Data(_tensor(features).double(), _tensor(logits).double(), _tensor(labels).long())


def _wanted(settings: Settings) -> list[str]:
    return [name for name in NAMES if name != "vim" or settings.vim_share is not None]


def _add(fitted: Baselines, name: str, data: Data, settings: Settings) -> None:
    """Put the baseline ``name`` into ``fitted``, or the reason why it cannot be fitted."""
    try:
        fitted.states[name] = _DETECTORS[name][0](data, settings)
    except (InapplicableError, torch.linalg.LinAlgError) as error:
        fitted.left_out[name] = str(error).splitlines()[0]


def measure(
    features: Array, logits: Array, labels: Array, settings: Settings, new: Array, new_logits: Array
) -> tuple[Baselines, dict[str, float]]:
    """Fit as ``fit`` does and score ``new`` features, one baseline after the other, and return what
    each of them costs.

    A baseline that gives NaN or infinity for one of ``new`` is left out too. Costs:
    NAME.fit_seconds, NAME.score_seconds (of all of ``new``) and NAME.megabytes, 10^6 bytes of what
    was fitted.
    """
    data, fitted, costs = _data(features, logits, labels), Baselines({}), {}
    for name in _wanted(settings):
        started = time.perf_counter()
        _add(fitted, name, data, settings)
        if name in fitted.left_out:
            continue
        ready = time.perf_counter()
        scores = fitted.score(new, new_logits, [name])[name]
        if not np.isfinite(scores).all():
            fitted.left_out[name] = (
                f"it gives {scores[~np.isfinite(scores)][0]} for an image of cal"
            )
            del fitted.states[name]
            continue
        costs[f"{name}.fit_seconds"] = ready - started
        costs[f"{name}.score_seconds"] = time.perf_counter() - ready
        costs[f"{name}.megabytes"] = sum(t.nbytes for t in fitted.states[name].values()) / 1e6
    return fitted, costs


def save(baselines: Baselines, path: Path) -> None:
    """Write the fitted baselines to one file."""
    tensors = {
        f"{name}.{key}": tensor
        for name, state in baselines.states.items()
        for key, tensor in state.items()
    }
    reasons = {"left_out": baselines.left_out} if baselines.left_out else {}
    save_tensors(path, tensors, {"baselines": list(baselines.names), **reasons})


def load(path: Path) -> Baselines:
    """Read what save wrote. Raises InputError where the file is corrupt or of another kind."""
    tensors, description = load_tensors(path)
    states: dict[str, State] = {name: {} for name in description.get("baselines", [])}
    try:
        for key, tensor in tensors.items():
            name, part = key.split(".")
            states[name][part] = tensor
    except (KeyError, ValueError) as error:
        raise InputError(
            path, "content", str(error), "baselines that stage detectors wrote"
        ) from None
    return Baselines(states, description.get("left_out", {}))
