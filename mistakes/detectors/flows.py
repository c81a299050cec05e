"""Normalizing flows from nflows, with bounded scales, so that no input can make one overflow.

A flow may be conditioned on a class, given as one of k: ``prediction`` gives it to every layer as
context, ``base`` makes it the Gaussian that the layers lead to (Izmailov et al. 2020,
Semi-Supervised Learning with Normalizing Flows), so that one pass gives the density of all classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistakes.detectors.compat import without_pyplot
from mistakes.errors import ArgumentError

with without_pyplot():
    from nflows.distributions.normal import ConditionalDiagonalNormal, StandardNormal
    from nflows.flows.base import Flow
    from nflows.nn.nets import ResidualNet
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
    from nflows.transforms.base import CompositeTransform, Transform
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


class WithoutContext(Transform):
    """A transform that takes no notice of the context, which is the base distribution's."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the transformed inputs (n, d) and the log-determinant (n,)."""
        found: tuple[Tensor, Tensor] = self.transform(inputs)
        return found


class ClassFlow(nn.Module):
    """p(y | c) of coordinates y, given a class c; or p(y), of which there is one, for ``none``."""

    def __init__(
        self,
        kind: str,
        coordinates: int,
        hidden: int,
        layers: int,
        condition: str = "none",
        classes: int = 1,
    ) -> None:
        """Make an untrained flow on float32 (n, coordinates).

        kind : ``maf`` (masked autoregressive), ``realnvp`` (affine coupling, Dinh et al. 2017;
        nflows bounds its scale between 0.001 and 1.001) or ``spline`` (rational-quadratic coupling,
        Durkan et al. 2019). The order of the coordinates is reversed before each layer.
        condition : none, prediction or base. Raises ArgumentError for a coupling of a single
        coordinate.
        """
        super().__init__()
        self.condition, self.classes = condition, 1 if condition == "none" else classes
        context = classes if condition == "prediction" else None
        transforms: list[nn.Module] = []
        for _ in range(layers):
            layer = _layer(kind, coordinates, hidden, context)
            transforms += [ReversePermutation(coordinates), layer]
        whole = CompositeTransform(transforms)
        if condition == "base":
            means_and_scales = nn.Linear(classes, 2 * coordinates)
            base = ConditionalDiagonalNormal([coordinates], means_and_scales)
            self.flow = Flow(WithoutContext(whole), base)
        else:
            self.flow = Flow(whole, StandardNormal([coordinates]))

    def log_prob(self, y: Tensor, given: Tensor) -> Tensor:
        """Return log p(y | c), nats (n,), of coordinates (n, d) and classes int64 (n,), which
        ``none`` takes no notice of.

        Examples
        --------
        >>> y, classes = torch.zeros(5, 3), torch.tensor([0, 1, 1, 0, 2])
        >>> ClassFlow("maf", 3, 8, 2, "prediction", classes=3).log_prob(y, classes).shape
        torch.Size([5])
        """
        if self.condition == "none":
            found: Tensor = self.flow.log_prob(y)
        else:
            found = self.flow.log_prob(y, functional.one_hot(given, self.classes).to(y))
        return found

    def log_probs(self, y: Tensor) -> Tensor:
        """Return log p(y | c), nats, of every class (n, classes): as many passes as there are
        classes for ``prediction``, one for ``base`` and ``none``.

        Examples
        --------
        >>> ClassFlow("maf", 3, 8, 2, "base", classes=4).log_probs(torch.zeros(5, 3)).shape
        torch.Size([5, 4])
        """
        if self.condition == "prediction":
            every = torch.eye(self.classes, dtype=y.dtype, device=y.device).repeat(len(y), 1)
            repeated = y.repeat_interleave(self.classes, dim=0)
            return self.flow.log_prob(repeated, every).reshape(len(y), self.classes)
        if self.condition == "none":
            return self.flow.log_prob(y)[:, None]
        every = torch.eye(self.classes, dtype=y.dtype, device=y.device)
        noise, log_determinant = self.flow._transform(y)
        means, log_scales = self.flow._distribution._compute_params(every)
        normal = torch.distributions.Normal(means, log_scales.exp())
        return normal.log_prob(noise[:, None]).sum(2) + log_determinant[:, None]


def _layer(kind: str, coordinates: int, hidden: int, context: int | None) -> nn.Module:
    if kind == "maf":
        return BoundedAutoregressive(
            coordinates, hidden_features=hidden, context_features=context, num_blocks=BLOCKS
        )
    if coordinates < 2:
        raise ArgumentError(
            "kind", kind, "maf, since features with one coordinate cannot be coupled"
        )
    mask = torch.arange(coordinates) % 2  # every second coordinate is transformed, given the others

    def conditioner(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(
            inputs, outputs, hidden_features=hidden, context_features=context, num_blocks=BLOCKS
        )

    if kind == "realnvp":
        return AffineCouplingTransform(mask, conditioner)
    return PiecewiseRationalQuadraticCouplingTransform(
        mask, conditioner, BINS, tails="linear", tail_bound=TAIL
    )
