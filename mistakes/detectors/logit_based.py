"""Detectors that look at the logits; SIRC at the length of the features too.

In double precision and with gradients.

pytorch-ood has most of them too; importing it costs seconds in every stage, its scores are float32,
and it clips probabilities at 1e-7, which ties confident inputs. The tests compare these with it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mistakes.detectors.detector import Data, Detector, InapplicableError, Settings


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


class Doctor(Detector):
    """(1 - g) / g, with g = sum_y p(y|x)^2: the odds that a second draw of p differs.

    References
    ----------
    Granese et al., "DOCTOR: a simple method for detecting misclassification errors", 2021 (its
    D_alpha).
    """

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        p, log_p = f.softmax(1), f.log_softmax(1)
        rest = -torch.expm1(log_p)  # 1 - p, of which no digit is lost where p is small
        largest = log_p.argmax(1, keepdim=True)
        others = p.scatter(1, largest, 0.0).sum(1, keepdim=True)
        return (p * rest.scatter(1, largest, others)).sum(1) / p.square().sum(1)


class SIRC(Detector):
    """Softmax information retaining combination: log((1 - max p) (1 + exp(-b (|z|_1 - a)))).

    a lies 3 standard deviations of |z|_1 on fit below its mean, and b is 1 / their size.

    References
    ----------
    Xia and Bouganis, "Augmenting softmax information for selective classification with
    out-of-distribution data", 2022 (MSP and the L1 norm).
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Find a and b. Raises InapplicableError where |z|_1 does not vary."""
        length = data.z.abs().sum(1)
        spread = length.std()
        if not spread > 0:
            raise InapplicableError("the L1 norm of the features does not vary")
        return self.keep(a=length.mean() - 3 * spread, b=1 / spread)

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score (n,)."""
        log_p = f.log_softmax(1).sort(1, descending=True).values
        length = z.abs().sum(1)
        surprise = functional.softplus(-self.state["b"] * (length - self.state["a"]))
        return log_p[:, 1:].logsumexp(1) + surprise


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
