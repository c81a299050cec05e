"""Detectors that look at the features (ViM at features and logits).

pytorch-ood has most of them too, but without gradients, in float32, and with 1e-6 added to the
diagonal of covariances that are singular (module gaussians). The tests compare these with it.
"""

import numpy as np
import torch
from torch import Tensor

from mistakes.detectors import gaussians
from mistakes.detectors.detector import Data, Detector, InapplicableError, Settings, State

# residual of logits in features, relative to the logits' spread, up to which they count as linear
LINEAR = 1e-3
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
        size = min(settings.knn_bank, len(data.z))
        if size < settings.knn_k:
            raise InapplicableError(
                f"detectors.knn_k is {settings.knn_k}, and the bank has {size} images"
            )
        drawn = np.random.default_rng(settings.seed).permutation(len(data.z))[:size]
        bank = _unit(data.z[torch.as_tensor(np.sort(drawn), device=data.z.device)]).float()
        return self.keep(bank=bank, k=torch.tensor(settings.knn_k))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,).

        The neighbours are found in float32 and without gradient; the distance to the k-th is
        float64 and has one, which is the score's own almost everywhere.
        """
        u, bank, k = _unit(z), self.state["bank"], int(self.state["k"])
        queries = u.detach().float().split(_QUERIES)
        neighbour = torch.cat([(part @ bank.T).topk(k, dim=1).indices[:, -1] for part in queries])
        return (u - bank[neighbour]).norm(dim=1)


class ViM(Detector):
    """Virtual-logit matching: alpha |residual of z| - log sum_y exp f_y.

    The last layer is recovered from what it did: logits = W z + b, by least squares of least norm.
    That is exact in the directions in which the features vary; in the others W is 0, and so is the
    origin -W^+ b.

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
        mean, centre = data.z.mean(0), data.f.mean(0)
        left, right = (data.z - mean).cpu(), (data.f - centre).cpu()  # gelsd is for the CPU only
        solved = torch.linalg.lstsq(left, right, rcond=gaussians.VARIES**0.5, driver="gelsd")
        W = solved.solution.T.to(data.z.device)  # (k, d)
        misfit = ((data.z - mean) @ W.T - (data.f - centre)).square().mean().sqrt() / (
            data.f - centre
        ).std()
        if not misfit <= LINEAR:  # or it is NaN, for the logits are constant
            raise InapplicableError(
                "the logits are not linear in the features of this features.layer"
            )
        origin = -torch.linalg.pinv(W) @ (centre - W @ mean)
        x = data.z - origin
        principal = int(settings.vim_share * x.shape[1])
        residual = torch.linalg.eigh(x.T @ x / len(x)).eigenvectors[:, : x.shape[1] - principal]
        length = (x @ residual).norm(dim=1).mean()
        if length <= gaussians.VARIES**0.5 * x.norm(dim=1).mean():
            raise InapplicableError(
                f"detectors.vim_share is {settings.vim_share}, and nothing of the features is left"
                " over"
            )
        alpha = data.f.amax(1).mean() / length
        return self.keep(origin=origin, residual=residual, alpha=alpha)

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        residual = (z - self.state["origin"]) @ self.state["residual"]
        return self.state["alpha"] * residual.norm(dim=1) - f.logsumexp(1)


def _unit(z: Tensor) -> Tensor:
    """Return z / |z|; a vector of zeros has no direction and stays, at distance 1 from all."""
    return z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _varying(state: State) -> State:
    if not state["factors"].shape[-1]:
        raise InapplicableError("the features do not vary within classes")
    return state
