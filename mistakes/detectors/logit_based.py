"""Detectors that look at the logits alone. In double precision and with gradients.

pytorch-ood has most of them too; importing it costs seconds in every stage, its scores are float32,
and it clips probabilities at 1e-7, which ties confident inputs. The tests compare these with it.
"""

import torch
from torch import Tensor

from mistakes.detectors.detector import Data, Detector, Settings


class MaxSoftmax(Detector):
    """MSP: -max_y p(y|x).

    References
    ----------
    Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples
    in neural networks", 2017.

    Examples
    --------
    >>> z, f = torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [0.0, 9.0]]).double()
    >>> MaxSoftmax()(z, f).tolist()
    [-0.5, -0.9998766054240137]
    """

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        return -f.softmax(1).amax(1)


class Entropy(Detector):
    """The entropy of p(y|x), nats."""

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        log_p = f.log_softmax(1)
        return -(log_p.exp() * log_p).sum(1)


class Energy(Detector):
    """-log sum_y exp f_y.

    References
    ----------
    Liu et al., "Energy-based out-of-distribution detection", 2020.
    """

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        return -f.logsumexp(1)


class MaxLogit(Detector):
    """-max_y f_y.

    References
    ----------
    Hendrycks et al., "Scaling out-of-distribution detection for real-world settings", 2022.
    """

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        return -f.amax(1)


class GEN(Detector):
    """Generalised entropy: sum of p^g (1 - p)^g over the M largest p.

    References
    ----------
    Liu, Lochman and Zach, "GEN: pushing the limits of softmax-based out-of-distribution detection",
    2023.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Keep the exponent g, ``gen_gamma``, and M, ``gen_largest`` (None: all)."""
        self.keep(gamma=torch.tensor(settings.gen_gamma, dtype=torch.double))
        largest = settings.gen_largest
        return self if largest is None else self.keep(largest=torch.tensor(largest))

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        log_p = f.log_softmax(1).sort(1, descending=True).values
        # 1 - p of the largest is the sum of the others: no digit is lost where p rounds to 1
        log_rest = torch.cat(
            [log_p[:, 1:].logsumexp(1, keepdim=True), torch.log1p(-log_p[:, 1:].exp())], dim=1
        )
        terms = (self.state["gamma"] * (log_p + log_rest)).exp()
        largest = self.state.get("largest")
        return terms[:, : None if largest is None else int(largest)].sum(1)
