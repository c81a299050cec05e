"""What every baseline is: a module with ``fit`` and ``forward`` that keeps what it learned."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
# in variance, relative to the largest: directions with less do not vary; float32 resolves 1e-14
VARIES = 1e-10
# residual of logits in features, relative to the logits' spread, up to which they count as linear
LINEAR = 1e-3


@dataclass(frozen=True)
class Settings:
    """The baselines' part of the section ``detectors`` of params.yaml, explained there."""

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
    """What baselines are fitted on.

    z : features, float64 (n, d). f : logits, float64 (n, k). labels : int64 (n,), of which some may
    be the classifier's predictions.
    """

    z: Tensor
    f: Tensor
    labels: Tensor

    @functools.cached_property
    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (k, d) and bias (k,) of the layer that makes logits of features.

        Recovered from what it did, logits = W z + b, by least squares of least norm. That is exact
        in the directions in which the features vary; in the others W is 0. Raises InapplicableError
        where the logits are not linear in the features, so that there is no such W.
        """
        mean, centre = self.z.mean(0), self.f.mean(0)
        left, right = (self.z - mean).cpu(), (self.f - centre).cpu()  # gelsd is for the CPU only
        solved = torch.linalg.lstsq(left, right, rcond=VARIES**0.5, driver="gelsd").solution
        misfit = (left @ solved - right).square().mean().sqrt() / right.std()
        if not misfit <= LINEAR:  # or it is NaN, for the logits are constant
            raise InapplicableError(
                "the logits are not linear in the features of this features.layer"
            )
        weight = solved.T.to(self.z.device)
        return weight, centre - weight @ mean


class InapplicableError(ValueError):
    """What is to be fitted has no meaning for these features or settings; the text says why."""


class Detector(nn.Module):
    """A score of inputs by their features and logits; higher is more anomalous.

    One implementation serves stored arrays and adaptive attacks: ``forward`` has a gradient. What
    ``fit`` learns is kept as buffers, so that ``to``, ``state_dict`` and ``deepcopy`` are torch's.
    """

    def fit(self, data: Data, settings: Settings) -> "Detector":
        """Learn from training data, and return the detector itself; here there is nothing to learn.

        Raises InapplicableError where the detector has no meaning for these data.
        """
        return self

    def forward(self, z: Tensor, f: Tensor) -> Tensor:
        """Return the score, float64 (n,), of features z, float64 (n, d), and logits f (n, k)."""
        raise NotImplementedError

    def keep(self, **tensors: Tensor) -> "Detector":
        """Make ``tensors`` the buffers of this detector, and return it."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        return self

    @property
    def state(self) -> State:
        """The buffers by name."""
        return dict(self.named_buffers())
