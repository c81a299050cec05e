"""Normalizing flows from nflows, with bounded scales, so that no input can make one overflow."""

import torch
from torch import Tensor, nn

from mistakes.detectors.compat import without_pyplot
from mistakes.errors import ArgumentError

with without_pyplot():
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.nn.nets import ResidualNet
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.coupling import (
        AffineCouplingTransform,
        PiecewiseRationalQuadraticCouplingTransform,
    )
    from nflows.transforms.permutations import ReversePermutation

LOG_SCALE = 3.0  # a layer multiplies a coordinate by at most exp(3) and at least exp(-3)
BINS, TAIL = 8, 5.0  # of splines; beyond 5 standard deviations they are the identity
BLOCKS = 2  # residual blocks in each conditioner


class BoundedAutoregressive(MaskedAffineAutoregressiveTransform):
    """Papamakarios et al. 2017, Masked Autoregressive Flow, with log-scale = 3 tanh(a / 3)."""

    def _elementwise_forward(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return inputs * log_scale.exp() + shift, log_scale.sum(1)

    def _elementwise_inverse(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return (inputs - shift) * (-log_scale).exp(), -log_scale.sum(1)

    def _log_scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        a, shift = self._unconstrained_scale_and_shift(parameters)
        return LOG_SCALE * torch.tanh(a / LOG_SCALE), shift


def build(kind: str, coordinates: int, hidden: int, layers: int) -> nn.Module:
    """Return an untrained flow on float32 (n, coordinates); its ``log_prob`` gives nats (n,).

    kind : ``maf`` (masked autoregressive), ``realnvp`` (affine coupling, Dinh et al. 2017; nflows
    bounds its scale between 0.001 and 1.001) or ``spline`` (rational-quadratic coupling, Durkan et
    al. 2019). The order of the coordinates is reversed before each layer. Raises InputError for a
    coupling of a single coordinate.

    Examples
    --------
    >>> build("maf", coordinates=3, hidden=8, layers=2).log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """
    transforms: list[nn.Module] = []
    for _ in range(layers):
        transforms += [ReversePermutation(coordinates), _layer(kind, coordinates, hidden)]
    return Flow(CompositeTransform(transforms), StandardNormal([coordinates]))


def _layer(kind: str, coordinates: int, hidden: int) -> nn.Module:
    if kind == "maf":
        return BoundedAutoregressive(coordinates, hidden_features=hidden, num_blocks=BLOCKS)
    if coordinates < 2:
        raise ArgumentError(
            "kind", kind, "maf, since features with one coordinate cannot be coupled"
        )
    mask = torch.arange(coordinates) % 2  # every second coordinate is transformed, given the others

    def conditioner(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(inputs, outputs, hidden_features=hidden, num_blocks=BLOCKS)

    if kind == "realnvp":
        return AffineCouplingTransform(mask, conditioner)
    return PiecewiseRationalQuadraticCouplingTransform(
        mask, conditioner, BINS, tails="linear", tail_bound=TAIL
    )
