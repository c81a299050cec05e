"""Baseline detectors from pytorch-ood, on stored features and logits. Higher = more anomalous, for each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pytorch_ood.detector import KNN, EnergyBased, Entropy, Mahalanobis, MaxLogit, MaxSoftmax
from torch import Tensor

from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.errors import InputError

_ON_LOGITS = {"msp": MaxSoftmax, "entropy": Entropy, "energy": EnergyBased, "max_logit": MaxLogit}
NAMES = (*_ON_LOGITS, "mahalanobis", "knn")


@contextmanager
def _double() -> Iterator[None]:
    """pytorch-ood makes tensors of the default type; units that never fire make a covariance too bad for float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Baselines:
    """Fitted baselines: everything that scoring needs."""

    means: Tensor  # float64 (k, d), of each class
    precision: Tensor  # float64 (d, d), inverse of the scatter within classes
    bank: Tensor  # float32 (m, d), features that neighbours are looked for in
    neighbours: int  # k of k nearest neighbours

    def score(self, features: Array, logits: Array) -> dict[str, Array]:
        """Return each baseline's score, float64 (n,), of features (n, d) and logits (n, k)."""
        z, f = torch.as_tensor(features.copy()), torch.as_tensor(logits.copy()).double()
        scores = {name: kind(None).predict_logits(f) for name, kind in _ON_LOGITS.items()}
        with _double():
            mahalanobis = Mahalanobis(None)
            mahalanobis.mu, mahalanobis.precision = self.means, self.precision
            scores["mahalanobis"] = mahalanobis.predict_features(z.double())
        knn = KNN(None, k=self.neighbours).fit_features(self.bank, torch.zeros(len(self.bank)))
        scores["knn"] = knn.predict_features(z)
        return {name: score.double().numpy() for name, score in scores.items()}


def fit(features: Array, labels: Array, neighbours: int, bank: int, seed: int) -> Baselines:
    """Fit on training features (n, d) and labels (n,); ``bank`` features, drawn by ``seed``, are kept for kNN.

    Raises InputError where the bank would hold fewer than ``neighbours``.
    """
    if min(bank, len(features)) < neighbours:
        size = min(bank, len(features))
        raise InputError("params.yaml", "detectors.knn_k", neighbours, f"at most {size}, the size of the bank")
    z = torch.as_tensor(features.copy())
    with _double():
        mahalanobis = Mahalanobis(None).fit_features(z.double(), torch.as_tensor(labels.copy()))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:bank])
    return Baselines(mahalanobis.mu, mahalanobis.precision, z[torch.as_tensor(chosen)], neighbours)


def save(baselines: Baselines, path: Path) -> None:
    """Write the fitted baselines to one file."""
    tensors = {"means": baselines.means, "precision": baselines.precision, "bank": baselines.bank}
    save_tensors(path, tensors, {"neighbours": baselines.neighbours})


def load(path: Path) -> Baselines:
    """Read what save wrote. Raises InputError where the file is corrupt or of another kind."""
    tensors, description = load_tensors(path)
    try:
        return Baselines(neighbours=description["neighbours"], **tensors)
    except (KeyError, TypeError) as error:
        raise InputError(path, "content", str(error), "baselines that stage detectors wrote") from None
