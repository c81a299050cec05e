"""Detectors that ask the last layer again, after the features were changed, or how far its
decision boundaries are.

pytorch-ood has them too, for a network in two parts; here the last layer is recovered from stored
features and logits, and the scores have gradients. The tests compare these with it.
"""

import torch
from torch import Tensor

from mistakes.detectors.detector import Data, Detector, Settings

CLIPPED = 0.9  # quantile of all activations of fit at which ReAct clips; its paper's
PRUNED = 0.65  # share of a row's activations that ASH prunes; pytorch-ood's default, of all layers
UNSCALED = 0.85  # share of a row's activations that do not count in SCALE's factor; its paper's


class ReAct(Detector):
    """The energy of the last layer on features that are clipped from above.

    References
    ----------
    Sun, Guo and Li, "ReAct: out-of-distribution detection with rectified activations", 2021.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Find the last layer and the bound; InapplicableError where it is not linear."""
        weight, bias = data.last_layer
        return self.keep(weight=weight, bias=bias, bound=_quantile(data.z, CLIPPED))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        clipped = torch.minimum(z, self.state["bound"])
        return -(clipped @ self.state["weight"].T + self.state["bias"]).logsumexp(1)


class ASH(Detector):
    """ASH-S: the energy of the last layer on the largest features, which are scaled up by what was
    pruned.

    References
    ----------
    Djurisic et al., "Extremely simple activation shaping for out-of-distribution detection", 2023.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Find the last layer; InapplicableError where it is not linear."""
        return _keep_layer(self, data)

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        largest = z.topk(_kept(z, PRUNED), dim=1)
        pruned = torch.zeros_like(z).scatter(1, largest.indices, largest.values)
        return _scaled_energy(self, pruned, _ratio(z, largest.values))


class SCALE(Detector):
    """The energy of the last layer on all features, scaled by the share of the largest of them.

    References
    ----------
    Xu et al., "Scaling for training time and post-hoc out-of-distribution detection enhancement",
    2024.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Find the last layer; InapplicableError where it is not linear."""
        return _keep_layer(self, data)

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        largest = z.topk(_kept(z, UNSCALED), dim=1).values
        return _scaled_energy(self, z, _ratio(z, largest))


class FDBD(Detector):
    """Minus the mean distance of features to the decision boundaries of the other classes, relative
    to their distance to the mean of fit.

    References
    ----------
    Liu and Qin, "Fast decision boundary based out-of-distribution detector", 2024.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Find the last layer and the mean; InapplicableError where it is not linear."""
        weight, _ = data.last_layer
        apart = torch.cdist(weight, weight).fill_diagonal_(1.0)  # no boundary to one's own class
        return self.keep(apart=apart.clamp(min=1e-12), mean=data.z.mean(0))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        largest = f.max(1)
        boundaries = (largest.values[:, None] - f) / self.state["apart"][largest.indices]
        away = (z - self.state["mean"]).norm(dim=1).clamp(min=1e-8)
        return -boundaries.sum(1) / ((f.shape[1] - 1) * away)


def _keep_layer(detector: Detector, data: Data) -> Detector:
    weight, bias = data.last_layer
    return detector.keep(weight=weight, bias=bias)


def _quantile(z: Tensor, share: float) -> Tensor:
    values = z.flatten()  # torch.quantile takes 16 million at most
    return values.kthvalue(max(1, round(share * len(values)))).values


def _kept(z: Tensor, share: float) -> int:
    """Return how many of the features of a row are the largest 1 - ``share``, at least one."""
    return max(1, z.shape[1] - round(z.shape[1] * share))


def _ratio(z: Tensor, largest: Tensor) -> Tensor:
    """Return the sum of each row over that of its largest features, (n,); 1 of a row of zeros."""
    total, of_largest = z.sum(1), largest.sum(1)
    usable = of_largest.abs() > 1e-12
    return torch.where(usable, total / torch.where(usable, of_largest, 1.0), 1.0)


def _scaled_energy(detector: Detector, z: Tensor, ratio: Tensor) -> Tensor:
    """Return -log sum_y exp of the logits of exp(ratio) z, (n,)."""
    weight, bias = detector.state["weight"], detector.state["bias"]
    return -(ratio.clamp(max=20).exp()[:, None] * (z @ weight.T) + bias).logsumexp(1)
