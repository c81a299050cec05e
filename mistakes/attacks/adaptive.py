"""The adaptive attack: projected gradient descent by an attacker who knows the classifier, the
detector and alpha.

Carlini and Wagner 2017, Adversarial Examples Are Not Easily Detected; Tramer et al. 2020, On
Adaptive Attacks to Adversarial Example Defenses. An image is won when the stored 8-bit image is
within eps, misclassified and not flagged. Every iterate is judged as it would be stored, and
nothing that comes later can lose an image that is won: a longer list of lambdas, more restarts and
more steps never make the attack weaker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from mistakes.artifacts import Array
from mistakes.attacks import adversarial, saturation
from mistakes.data.features import Outputs
from mistakes.data.pixels import to_unit
from mistakes.detectors import conformal
from mistakes.errors import ArgumentError, InputError
from mistakes.networks.extraction import Extractor

# images (n, c, h, w) in [0, 1] to logits (n, k) and score (n,)
Target = Callable[[Tensor], tuple[Tensor, Tensor]]
BEYOND = 0.1  # the attacker aims this far past both boundaries, in the units of ``_gain``
# of the exact test that plain PGD evades a detector more often than the attack on it does
SIGNIFICANCE = 0.01
# of eps; the t-th step is 1 / sqrt(1 + t / 4) of it, whatever the number of steps
FIRST_STEP = 0.25


@dataclass(frozen=True)
class Settings:
    """How hard the attacker tries."""

    eps: float  # L-inf, in [0, 1] pixel units
    steps: int  # of each descent
    # weights of the detector beside the classifier, one descent each; 0 ignores the detector
    lambdas: Sequence[float]
    # descents for each lambda: the first from the clean image, the others from random ones
    restarts: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Adaptive:
    """For each image the misclassified candidate with the lowest score; the clean image where none
    was found.
    """

    images: Array  # uint8 (n, c, h, w)
    success: Array  # bool (n,): misclassified
    undetected: Array  # bool (n,): misclassified, and the score is at most the threshold
    linf: Array  # float32 (n,), in [0, 1] pixel units
    score: Array  # float64 (n,), of the attacked detector; infinite where nothing was misclassified


def threshold(calibration: Array, alpha: float) -> float:
    """Return the t for which ``score > t`` is ``conformal p-value <= alpha``, from the scores (n,)
    of calibration.

    Raises ArgumentError where no p-value can reach alpha, so that every attack would go undetected.

    Examples
    --------
    >>> threshold(np.arange(99.0), 0.05)
    94.0
    """
    conformal.check_attainable(alpha, len(calibration))
    return float(calibration[conformal.p_values(calibration, calibration) > alpha].max())


def spread(calibration: Array) -> float:
    """Return the unit of a score: half the distance from the 16th to the 84th percentile of its
    calibration.

    1 where that is 0, since most scores tie.

    Examples
    --------
    >>> spread(np.linspace(0, 100, 101))
    34.0
    """
    low, high = np.percentile(calibration, [16, 84])
    return float(high - low) / 2 or 1.0


def target(
    extractor: Extractor, score: Callable[[Outputs], Tensor], saturated: bool = False
) -> Target:
    """Return the differentiable composition of classifier, features and a score of module scoring.

    saturated : the cross-entropy has no gradient somewhere, so the logits to be changed are those
    of saturation.limit_lead.
    """

    def compose(x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = extractor.tensors(x)
        logits = saturation.limit_lead(outputs.logits) if saturated else outputs.logits
        return logits, score(outputs)

    return compose


def attack(
    model: Target,
    calibration: Array,
    alpha: float,
    images: Array,
    labels: Array,
    settings: Settings,
    device: torch.device,
) -> Adaptive:
    """Attack uint8 images (n, c, h, w), all classified as ``labels`` (n,), so that a detector at
    ``alpha`` is silent.

    calibration : the score (m,) of the correctly classified calibration images. It gives the
    threshold, and the unit that frees lambda of the score's own. Raises InputError where alpha is
    too small or a gradient NaN or infinite.
    """
    limit, unit = threshold(calibration, alpha), spread(calibration)
    search = _Search(model, limit, unit, images, labels, settings, device)
    generator = np.random.default_rng(settings.seed)
    for restart in range(settings.restarts):
        reach = adversarial.grey_levels(settings.eps) if restart else 0
        start = (images + generator.uniform(-reach, reach, images.shape)).astype(np.float32)
        for weight in settings.lambdas:
            search.descend(start.clip(0, 255) / 255, weight)
    success = np.isfinite(search.score)
    return Adaptive(
        search.images,
        success,
        search.score <= limit,
        adversarial.linf(search.images, images),
        search.score,
    )


# those of ``rows``
COLUMNS = (
    "target",
    "eps",
    "score",
    "attempted",
    "succeeded",
    "undetected",
    "rate",
    "low",
    "high",
)


def rows(
    eps: float,
    judged: Mapping[str, tuple[Array, Mapping[str, Array]]],
    alpha: float,
    confidence_level: float,
) -> list[dict[str, Any]]:
    """Return a row for every target and score: undetected successes among the attempted, and their
    exact interval.

    judged : of each target, success (n,) and the p-values (n,) of every score; the target ``none``
    is an attack that knows no detector. Raises ArgumentError where an attack on a detector evades
    it significantly less than that one does.
    """
    found = []
    for target, (success, p_of) in judged.items():
        for score, p in p_of.items():
            undetected = success & (p > alpha)
            plain, p_plain = judged["none"]
            if (
                target == score
                and adversarial.mcnemar(plain & (p_plain[score] > alpha), undetected) < SIGNIFICANCE
            ):
                rate = (plain & (p_plain[score] > alpha)).mean()
                shown = (
                    f"undetected at a rate of {undetected.mean():.3f}, plain PGD of {rate:.3f} (eps"
                    f" {eps:g})"
                )
                expected = (
                    "an attack at least as strong as plain PGD: more steps, restarts or lambdas"
                )
                raise ArgumentError(f"detectors ({target})", shown, expected)
            low, high = stats.binomtest(int(undetected.sum()), len(p)).proportion_ci(
                confidence_level, method="exact"
            )
            found.append(
                {
                    "target": target,
                    "eps": eps,
                    "score": score,
                    "attempted": len(p),
                    "succeeded": int(success.sum()),
                    "undetected": int(undetected.sum()),
                    "rate": float(undetected.mean()),
                    "low": low,
                    "high": high,
                }
            )
    return found


class _Search:
    """The best candidate so far of every image, and the descents that improve on it."""

    def __init__(
        self,
        model: Target,
        limit: float,
        unit: float,
        images: Array,
        labels: Array,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self._model, self._limit, self._unit, self._settings, self._device = (
            model,
            limit,
            unit,
            settings,
            device,
        )
        self._clean, self._labels = images, labels
        self.images = images.copy()
        self.score = np.full(len(images), np.inf)
        with torch.no_grad():
            margins = [
                self._margin(model(x)[0], y) for _, x, y in self._batches(np.arange(len(images)))
            ]
        # of clean images, which are classified as their labels
        self._margin_unit = float(-torch.cat(margins).median())

    def _batches(self, rows: Array) -> list[tuple[Array, Tensor, Tensor]]:
        size = self._settings.batch_size
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [
            (
                part,
                to_unit(self._clean[part], self._device),
                torch.as_tensor(self._labels[part]).to(self._device),
            )
            for part in parts
        ]

    @staticmethod
    def _margin(logits: Tensor, y: Tensor) -> Tensor:
        """Return by how many units of logit (n,) another class leads over ``y``; positive:
        misclassified.
        """
        others = logits.scatter(1, y[:, None], -torch.inf)
        return others.amax(1) - logits.gather(1, y[:, None])[:, 0]

    def _gain(self, logits: Tensor, score: Tensor, y: Tensor, weight: float) -> Tensor:
        """Return what the attacker maximises (n,).

        lambda = 0 : the cross-entropy, as in plain PGD. Otherwise the margin, in units of a clean
        image's, and, while the image is misclassified, minus lambda times the score above the
        threshold, in units of its spread (each only until it is BEYOND its boundary, so that the
        other one gets the rest of eps). While the right class is predicted a score such as MSP
        leads back to it, hence the condition: Bryniarski et al. 2021, Evading Adversarial Example
        Detection Defenses with Orthogonal Projected Gradient Descent (its selective form).
        """
        if weight == 0:
            return functional.cross_entropy(logits, y, reduction="none")
        margin = self._margin(logits, y) / self._margin_unit
        seen = ((score - self._limit) / self._unit).clamp(min=-BEYOND)
        return torch.where(margin > 0, margin.clamp(max=BEYOND) - weight * seen, margin)

    def descend(self, start: Array, weight: float) -> None:
        """Descend from ``start``, float32 (n, c, h, w) in [0, 1], with all images that are not won
        yet.
        """
        levels = adversarial.grey_levels(self._settings.eps)
        for rows, clean, y in self._batches(np.flatnonzero(self.score > self._limit)):
            low, high = (clean - levels / 255).clamp(min=0), (clean + levels / 255).clamp(max=1)
            x = (
                torch.as_tensor(start[rows])
                .to(self._device)
                .contiguous(memory_format=torch.channels_last)
            )
            for t in range(self._settings.steps + 1):
                stored = (
                    (x * 255).round() / 255
                ).requires_grad_()  # its gradient moves x, which is not rounded
                logits, score = self._model(stored)
                self._keep(rows, stored, logits, score, y)
                waiting = self.score[rows] > self._limit
                if t == self._settings.steps or not waiting.any():
                    break
                (gradient,) = torch.autograd.grad(
                    self._gain(logits, score, y, weight).sum(), stored
                )
                if not torch.isfinite(gradient).all():
                    raise InputError(
                        "adaptive", f"gradient in step {t}", "NaN or infinite", "finite numbers"
                    )
                step = FIRST_STEP * self._settings.eps / (1 + t / 4) ** 0.5
                x = torch.minimum(torch.maximum(x + step * gradient.sign(), low), high)
                rows, keep = rows[waiting], torch.as_tensor(waiting).to(self._device)
                x, y, low, high = x[keep], y[keep], low[keep], high[keep]

    def _keep(self, rows: Array, stored: Tensor, logits: Tensor, score: Tensor, y: Tensor) -> None:
        wrong = (logits.argmax(1) != y).cpu().numpy()
        found = np.where(wrong, score.detach().double().cpu().numpy(), np.inf)
        better = found < self.score[rows]
        self.score[rows[better]] = found[better]
        kept = (stored.detach() * 255).round().to(torch.uint8).cpu().numpy()
        self.images[rows[better]] = kept[better]
