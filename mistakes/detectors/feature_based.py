"""Detectors that look at the features (ViM at features and logits).

pytorch-ood has most of them too, but without gradients, in float32, and with 1e-6 added to the
diagonal of covariances that are singular (module gaussians). The tests compare these with it.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mistakes.detectors import gaussians
from mistakes.detectors.detector import (
    VARIES,
    Data,
    Detector,
    InapplicableError,
    Settings,
    State,
)

SMALL_BANK = 10_000  # features of fit that NNGuide, LID and the trust score look in, at most
_EQUAL = 1e-6  # a distance that float32 features do not tell from 0
_QUERIES = 250  # whose distances to the whole bank are in memory at once: 50 MB for 50,000


class Mahalanobis(Detector):
    """min_y (z - mu_y)^T Sigma^-1 (z - mu_y), with the covariance within classes.

    References
    ----------
    Lee et al., "A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks", 2018.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Fit a Gaussian for each label. Raises InapplicableError where nothing varies."""
        return self.keep(**_varying(gaussians.shared(data.z, data.labels)))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        return gaussians.squared_distances(self.state, z).amin(1)


class RelativeMahalanobis(Detector):
    """The Mahalanobis distance minus that to one Gaussian for all classes.

    References
    ----------
    Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection", 2021.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Fit a Gaussian for each label, and one for all; InapplicableError as Mahalanobis."""
        return self.keep(**_varying(gaussians.relative(data.z, data.labels)))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        background = gaussians.squared_distances(self.state, z, "background_")[:, 0]
        return gaussians.squared_distances(self.state, z).amin(1) - background


class ClassGaussians(Detector):
    """-log sum_y pi_y N(z; mu_y, Sigma_y), nats, with a covariance for each class.

    References
    ----------
    Mukhoti et al., "Deep deterministic uncertainty: a new simple baseline", 2023 (DDU).
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Fit a Gaussian for each label. Raises InapplicableError where nothing varies."""
        return self.keep(**_varying(gaussians.of_classes(data.z, data.labels)))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,), nats."""
        return gaussians.nll(self.state, z)


class GMM(Detector):
    """-log density, nats, of a Gaussian mixture fitted without labels to principal components."""

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Fit ``gmm_components`` Gaussians to ``gmm_principal`` components.

        Raises InapplicableError where fewer directions vary, or there are fewer samples.
        """
        components, principal = settings.gmm_components, settings.gmm_principal
        return self.keep(**gaussians.mixture(data.z, components, principal, settings.seed))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,), nats."""
        return gaussians.nll(self.state, z)


class KNN(Detector):
    """The distance of z / |z| to its k-th nearest neighbour in a bank of training features.

    References
    ----------
    Sun et al., "Out-of-distribution detection with deep nearest neighbors", 2022.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Draw ``knn_bank`` features by ``seed``. Raises InapplicableError if fewer than k."""
        bank = _unit(data.z[_drawn(data, settings)]).float()
        return self.keep(bank=bank, k=torch.tensor(settings.knn_k))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,).

        The neighbours are found in float32 and without gradient; the distance to the k-th is
        float64 and has one, which is the score's own almost everywhere.
        """
        u, bank = _unit(z), self.state["bank"]
        nearest = _largest(u, bank, int(self.state["k"]))
        return (u - bank[nearest[:, -1]]).norm(dim=1)


class NNGuide(Detector):
    """The energy times the mean similarity to the k nearest of a bank, each weighed by its energy,
    negated.

    References
    ----------
    Park, Jung and Teoh, "Nearest neighbor guidance for out-of-distribution detection", 2023.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Draw a small bank. Raises InapplicableError if it has fewer than ``knn_k``."""
        drawn = _drawn(data, settings, SMALL_BANK)
        bank = _unit(data.z[drawn]) * data.f[drawn].logsumexp(1)[:, None]
        return self.keep(bank=bank.float(), k=torch.tensor(settings.knn_k))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        u, bank = _unit(z), self.state["bank"]
        nearest = _largest(u, bank, int(self.state["k"]))
        parts = zip(u.split(_QUERIES), nearest.split(_QUERIES), strict=True)
        guidance = torch.cat([(a * bank[i].double().mean(1)).sum(1) for a, i in parts])
        return -guidance * f.logsumexp(1)


class LID(Detector):
    """The local intrinsic dimensionality, by the distances to the k nearest of a bank.

    -k / sum_i log(r_i / r_k), the maximum-likelihood estimate, of one layer.

    References
    ----------
    Ma et al., "Characterizing adversarial subspaces using local intrinsic dimensionality", 2018.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Draw a small bank. Raises InapplicableError if it has fewer than ``knn_k``."""
        bank = _unit(data.z[_drawn(data, settings, SMALL_BANK)]).float()
        return self.keep(bank=bank, k=torch.tensor(settings.knn_k))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        u, bank = _unit(z), self.state["bank"]
        nearest = _largest(u, bank, int(self.state["k"]))
        parts = zip(u.split(_QUERIES), nearest.split(_QUERIES), strict=True)
        away = torch.cat([(a[:, None] - bank[i]).norm(dim=2) for a, i in parts])
        distances = away.clamp(min=_EQUAL)
        spread = (distances[:, -1:] / distances).log().mean(1)
        return 1 / spread.clamp(min=_EQUAL)


class TrustScore(Detector):
    """The distance to the nearest of a bank of the predicted class, over that to the nearest of any
    other class; without the paper's filter of training images.

    References
    ----------
    Jiang et al., "To trust or not to trust a classifier", 2018.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Draw a small bank."""
        drawn = _drawn(data, replace(settings, knn_k=1), SMALL_BANK)
        return self.keep(bank=_unit(data.z[drawn]).float(), labels=data.labels[drawn])

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,); a class that the bank lacks is as far as can be."""
        u, bank, labels = _unit(z), self.state["bank"], self.state["labels"]
        found = []
        for same in (True, False):
            nearest, there = _nearest_of(u, f.argmax(1), bank, labels, same)
            away = (u - bank[nearest]).norm(dim=1)
            found.append(torch.where(there, away, 2.0).clamp(min=_EQUAL))
        return found[0] / found[1]


class ViM(Detector):
    """Virtual-logit matching: alpha |residual of z| - log sum_y exp f_y.

    The origin is -W^+ b, of the last layer W z + b; 0 in the directions in which nothing varies.

    References
    ----------
    Wang et al., "ViM: out-of-distribution with virtual-logit matching", 2022.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Find the residual space, a fraction 1 - ``vim_share`` of the dimensions.

        Raises InapplicableError where the logits are not linear in the features, so that there is
        no such W, or where nothing is left over.
        """
        assert settings.vim_share is not None
        weight, bias = data.last_layer
        x = data.z - (origin := -torch.linalg.pinv(weight) @ bias)
        principal = int(settings.vim_share * x.shape[1])
        residual = torch.linalg.eigh(x.T @ x / len(x)).eigenvectors[:, : x.shape[1] - principal]
        length = (x @ residual).norm(dim=1).mean()
        if length <= VARIES**0.5 * x.norm(dim=1).mean():
            raise InapplicableError(
                f"vim_share is {settings.vim_share}, and nothing of the features is left over"
            )
        alpha = data.f.amax(1).mean() / length
        return self.keep(origin=origin, residual=residual, alpha=alpha)

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        residual = (z - self.state["origin"]) @ self.state["residual"]
        return self.state["alpha"] * residual.norm(dim=1) - f.logsumexp(1)


def _drawn(data: Data, settings: Settings, most: int | None = None) -> Tensor:
    """Return which rows are the bank, int64 (m,). Raises InapplicableError if fewer than k."""
    size = min(settings.knn_bank, most or len(data.z), len(data.z))
    if size < settings.knn_k:
        raise InapplicableError(f"knn_k is {settings.knn_k}, and the bank has {size} images")
    drawn = np.random.default_rng(settings.seed).permutation(len(data.z))[:size]
    return torch.as_tensor(np.sort(drawn), device=data.z.device)


@torch.no_grad()
def _largest(u: Tensor, bank: Tensor, k: int) -> Tensor:
    """Return the k rows of the bank with the largest inner products, int64 (n, k), best first."""
    queries = u.float().split(_QUERIES)
    return torch.cat([(part @ bank.T).topk(k, dim=1).indices for part in queries])


@torch.no_grad()
def _nearest_of(
    u: Tensor, predicted: Tensor, bank: Tensor, labels: Tensor, same: bool
) -> tuple[Tensor, Tensor]:
    """Return the nearest row of the bank whose label is, or is not, the predicted one, int64 (n,),
    and whether there is one.
    """
    nearest = []
    for part, y in zip(u.float().split(_QUERIES), predicted.split(_QUERIES), strict=True):
        others = (labels == y[:, None]) != same
        nearest.append((part @ bank.T).masked_fill_(others, -torch.inf).max(1))
    indices = torch.cat([found.indices for found in nearest])
    return indices, torch.cat([found.values for found in nearest]).isfinite()


def _unit(z: Tensor) -> Tensor:
    """Return z / |z|; a vector of zeros has no direction and stays, at distance 1 from all."""
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _varying(state: State) -> State:
    if not state["factors"].shape[-1]:
        raise InapplicableError("the features do not vary within classes")
    return state
