"""The baselines: the detectors of the literature, fitted and scored together on stored features.

A baseline that does not apply to the features, the logits or the number of images is left out, with
the reason.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mistakes import devices, progress
from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.detectors.detector import Data, Detector, InapplicableError, Settings, State
from mistakes.detectors.feature_based import (
    GMM,
    KNN,
    LID,
    ClassGaussians,
    Mahalanobis,
    NNGuide,
    RelativeMahalanobis,
    TrustScore,
    ViM,
)
from mistakes.detectors.last_layer import ASH, FDBD, SCALE, ReAct
from mistakes.detectors.logit_based import (
    GEN,
    SIRC,
    Doctor,
    Energy,
    Entropy,
    MaxLogit,
    MaxSoftmax,
)
from mistakes.errors import ArgumentError, InputError

DETECTORS: dict[str, type[Detector]] = {
    "msp": MaxSoftmax,
    "entropy": Entropy,
    "energy": Energy,
    "max_logit": MaxLogit,
    "gen": GEN,
    "mahalanobis": Mahalanobis,
    "relative_mahalanobis": RelativeMahalanobis,
    "class_gaussians": ClassGaussians,
    "gmm": GMM,
    "knn": KNN,
    "vim": ViM,
    "doctor": Doctor,
    "sirc": SIRC,
    "nnguide": NNGuide,
    "fdbd": FDBD,
    "react": ReAct,
    "ash": ASH,
    "scale": SCALE,
    "trust_score": TrustScore,
    "lid": LID,
}
NAMES = tuple(DETECTORS)
_ROWS = 1000  # scored at once


class Baselines(nn.Module):
    """Fitted baselines by name; for those that are left out, the reason."""

    def __init__(self, left_out: dict[str, str] | None = None) -> None:
        """Make a collection that is empty but for the reasons in ``left_out``."""
        super().__init__()
        self.detectors = nn.ModuleDict()
        self.left_out = dict(left_out or {})

    @property
    def names(self) -> tuple[str, ...]:
        """The baselines that were fitted: those of NAMES that apply, vim where it is asked for."""
        return tuple(self.detectors)

    def forward(
        self, z: Tensor, logits: Tensor, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Return the scores ``names`` (all of them by default).

        z : features (n, d). logits : (n, k). Each score is float64 (n,) and has its gradient.
        """
        x, f = z.double(), logits.double()
        return {name: self.detectors[name](x, f) for name in names or self.names}

    @torch.no_grad()
    def score(
        self, features: Array, logits: Array, names: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Return what forward does as arrays, float64 (n,), of arrays of any length."""
        device = devices.of(self)
        slices = [slice(i, i + _ROWS) for i in range(0, max(1, len(features)), _ROWS)]
        parts = [
            self(_tensor(features[rows]).to(device), _tensor(logits[rows]).to(device), names)
            for rows in slices
        ]
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def _tensor(array: Array) -> Tensor:
    return torch.as_tensor(array.copy())  # a copy, for stored arrays are mapped read-only


def fit(
    features: Array,
    logits: Array,
    labels: Array,
    settings: Settings,
    names: Sequence[str] | None = None,
    device: torch.device = devices.CPU,
) -> Baselines:
    """Fit ``names`` (all of them by default; without vim where ``vim_share`` is None) on
    ``device``, where they then score.

    features : (n, d). logits : (n, k). labels : int (n,). Baselines that do not apply are in
    ``left_out``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> z, labels = rng.normal(size=(100, 4)), rng.integers(0, 2, 100)
    >>> settings = Settings(0, 0.1, None, 2, 2, 5, 100, None)
    >>> fitted = fit(z, z[:, :2], labels, settings, ["msp", "knn"])
    >>> [(name, score.shape) for name, score in fitted.score(z[:3], z[:3, :2]).items()]
    [('msp', (3,)), ('knn', (3,))]
    """
    data, fitted = _data(features, logits, labels, device), Baselines()
    for name in names or _wanted(settings):
        _add(fitted, name, data, settings)
    return fitted


def _data(features: Array, logits: Array, labels: Array, device: torch.device) -> Data:
    z, f, y = (_tensor(part).to(device) for part in (features, logits, labels))
    return Data(z.double(), f.double(), y.long())


def _wanted(settings: Settings) -> list[str]:
    for name in DETECTORS:  # they are columns of the score table, and keys of the file
        if not re.fullmatch("(?!p_)[a-z][a-z0-9_]*", name):
            raise ArgumentError("DETECTORS", name, "small letters, digits and _, and no p_ first")
    return [name for name in NAMES if name != "vim" or settings.vim_share is not None]


def _add(fitted: Baselines, name: str, data: Data, settings: Settings) -> None:
    """Put the baseline ``name`` into ``fitted``, or the reason why it cannot be fitted."""
    try:
        fitted.detectors[name] = DETECTORS[name]().fit(data, settings).to(data.z.device)
    except (InapplicableError, torch.linalg.LinAlgError) as error:
        fitted.left_out[name] = str(error).splitlines()[0]


def measure(
    features: Array,
    logits: Array,
    labels: Array,
    settings: Settings,
    new: Array,
    new_logits: Array,
    device: torch.device = devices.CPU,
) -> tuple[Baselines, dict[str, float]]:
    """Fit as ``fit`` does, score ``new`` features (m, d), and return what each baseline costs.

    A baseline that gives NaN or infinity for one of ``new`` is left out too. Costs:
    NAME.fit_seconds, NAME.score_seconds (of all of ``new``) and NAME.megabytes, 10^6 bytes of what
    was fitted.
    """
    data, fitted, costs = _data(features, logits, labels, device), Baselines(), {}
    for name in progress.bar(_wanted(settings), "baselines"):
        started = time.perf_counter()
        _add(fitted, name, data, settings)
        if name in fitted.left_out:
            continue
        ready = time.perf_counter()
        scores = fitted.score(new, new_logits, [name])[name]
        if not np.isfinite(scores).all():
            wrong = scores[~np.isfinite(scores)][0]
            fitted.left_out[name] = f"it gives {wrong} for an image of cal"
            del fitted.detectors[name]
            continue
        costs[f"{name}.fit_seconds"] = ready - started
        costs[f"{name}.score_seconds"] = time.perf_counter() - ready
        buffers = fitted.detectors[name].buffers()
        costs[f"{name}.megabytes"] = sum(tensor.nbytes for tensor in buffers) / 1e6
    return fitted, costs


def save(baselines: Baselines, path: Path) -> None:
    """Write the fitted baselines to one file."""
    tensors = {
        f"{name}.{key}": tensor
        for name, detector in baselines.detectors.items()
        for key, tensor in detector.state_dict().items()
    }
    reasons = {"left_out": baselines.left_out} if baselines.left_out else {}
    save_tensors(path, tensors, {"baselines": list(baselines.names), **reasons})


def load(path: Path) -> Baselines:
    """Read what save wrote. Raises InputError where the file is corrupt or of another kind."""
    tensors, description = load_tensors(path)
    states: dict[str, State] = {name: {} for name in description.get("baselines", [])}
    found = Baselines(description.get("left_out"))
    try:
        for key, tensor in tensors.items():
            name, part = key.split(".")
            states[name][part] = tensor
        for name, state in states.items():
            found.detectors[name] = DETECTORS[name]().keep(**state)
    except (KeyError, ValueError) as error:
        expected = "baselines that stage detectors wrote"
        raise InputError(path, "content", str(error), expected) from None
    return found
