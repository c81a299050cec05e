"""From a score to its surprise -log p, smooth and without a largest value, so that extreme inputs
do not tie.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

KNOTS = 100  # quantiles between which log p is interpolated
# the tail that is extrapolated: with n reference scores the smallest empirical p is 1 / (n + 1)
BEYOND = 0.05
HEAVY = 0.05  # least shape of the tail: with less, the score could end at a largest value


class Tail(nn.Module):
    """-log P(score >= s) for reference scores: empirical up to p = 0.05, then a generalised Pareto
    tail.

    Peaks over threshold (Pickands 1975; Siffer et al. 2017 for anomaly scores). Extrapolated
    p-values rank inputs; they guarantee nothing.
    """

    knots: Tensor
    surprises: Tensor
    pareto: Tensor

    def __init__(self) -> None:
        """Make an unfitted tail; ``fit`` or ``load_state_dict`` fills it."""
        super().__init__()
        # scores, rising; ties are spread by 1e-9
        self.register_buffer("knots", torch.zeros(KNOTS, dtype=torch.double))
        # -log p at the knots, nats
        self.register_buffer("surprises", torch.zeros(KNOTS, dtype=torch.double))
        self.register_buffer("pareto", torch.ones(2, dtype=torch.double))  # shape and scale

    def fit(self, scores: Tensor) -> None:
        """Fit to reference scores (n,), n >= 2."""
        from scipy import stats

        device, x = self.knots.device, scores.double().cpu().numpy()
        p = np.geomspace(1, BEYOND, KNOTS)
        knots = np.quantile(x, 1 - p)
        # scores that do not differ still get a unit that float64 resolves beside them
        unit = max(knots[-1] - knots[0], 1e-9, 1e-5 * float(np.abs(knots).max()))
        self.knots = torch.as_tensor(knots + 1e-9 * unit * np.arange(KNOTS), device=device)
        self.surprises = torch.as_tensor(-np.log(p), device=device)
        excess = x[x > knots[-1]] - knots[-1]
        shape, scale = 0.0, unit
        if len(excess) >= 10 and np.ptp(excess) > 0:
            shape, _, scale = stats.genpareto.fit(excess, floc=0)
        elif len(excess):
            scale = max(float(excess.mean()), 1e-9 * unit)
        found = [max(shape, HEAVY), scale]
        self.pareto = torch.tensor(found, dtype=torch.double, device=device)

    def forward(self, scores: Tensor) -> Tensor:
        """Return -log p, nats, float64 (n,), of scores (n,); 0 below the smallest reference."""
        s = scores.double()
        right = torch.searchsorted(self.knots, s.detach()).clamp(1, KNOTS - 1)
        low, high = self.knots[right - 1], self.knots[right]
        within = ((s - low) / (high - low)).clamp(0, 1)
        body = self.surprises[right - 1] + within * (
            self.surprises[right] - self.surprises[right - 1]
        )
        shape, scale = self.pareto
        beyond = torch.log1p(shape * (s - self.knots[-1]).clamp(min=0) / scale) / shape
        return torch.where(s > self.knots[-1], -math.log(BEYOND) + beyond, body)
