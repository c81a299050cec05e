"""A small classifier with its detectors, to be attacked."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from mistakes.attacks import adaptive, adversarial
from mistakes.data.features import Batch
from mistakes.detectors import baselines, conformal, density, guard, scoring
from mistakes.networks import architectures, training
from mistakes.networks.extraction import Extractor

CPU = torch.device("cpu")
EASY = adaptive.Settings(0.08, 8, (0.0,), 1, 200, 0)


@dataclasses.dataclass(frozen=True)
class System:
    """A small trained network with its detectors, calibrated, and images that it classifies
    correctly.
    """

    model: architectures.Classifier
    extractor: Extractor
    detectors: scoring.Detectors
    calibration: dict[str, np.ndarray]
    images: np.ndarray
    labels: np.ndarray

    def target(self, name: str) -> adaptive.Target:
        return adaptive.target(self.extractor, self.detectors.differentiable(name))

    def judge(
        self, name: str, images: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return success and undetected success at alpha = 0.1, by the scores and p-values that the
        pipeline uses.
        """
        batch: Batch = self.extractor.whole(images, 500)
        score = self.detectors.score(batch)[name]
        success = batch.logits.argmax(1) != labels
        return success, success & (conformal.p_values(self.calibration[name], score) > 0.1)


def trained(checkpoint: Path) -> System:
    """Train it on digits, in seconds; ``checkpoint`` is written."""
    digits = load_digits()
    images, labels = (digits.images * 255 / 16).round().astype(np.uint8)[:, None], digits.target
    schedule = training.Schedule(8, 32, 0.05, 0.9, 1e-4, False, 0, "float32", 0)
    model = architectures.new("small_cnn", 8, 10, images[:900], 0)
    training.train(model, images[:900], labels[:900], schedule, CPU, lambda *_: {}, checkpoint)
    model.eval().requires_grad_(False)
    extractor = Extractor(model, "penultimate", None, CPU, ["left_1", "mirror"])
    fit, cal = extractor.whole(images[:900], 500), extractor.whole(images[900:1200], 500)
    settings = density.Optimisation(4, 4, 64, 1e-3, 5.0, 0)
    nothing = lambda *_, **__: None  # noqa: E731
    flow = density.fit(
        fit.features,
        cal.features,
        "maf",
        "direction_norm",
        8,
        2,
        16,
        settings,
        CPU,
        nothing,
        density.Given("prediction", 10, fit.predicted, cal.predicted),
    ).density
    others = baselines.fit(
        fit.features, fit.logits, labels[:900], baselines.Settings(0, 0.1, None, 5, 8, 5, 900, 0.5)
    )
    flow.requires_grad_(False)
    right = cal.take(np.flatnonzero(cal.logits.argmax(1) == labels[900:1200]))
    densities = density.evaluate(flow.log_joints_at, right.features, right.predicted)
    guarded = guard.fit(fit, right, densities, guard.Settings(0, 16, 5, 64, 2e-3))
    detectors = scoring.Detectors(flow, others, guarded)
    calibration = detectors.score(right)
    origin = (
        adversarial.initially_correct(model, images[1200:], labels[1200:], 500, 0, CPU, 500) + 1200
    )
    assert len(origin) >= 480
    return System(model, extractor, detectors, calibration, images[origin], labels[origin])


def run(
    system: System, attack: str, norm: str, n: int = 500, batch_size: int = 500, **arguments: float
):
    x, y = system.images[:n], system.labels[:n]
    return adversarial.run(system.model, x, y, attack, norm, arguments, 0, CPU, batch_size)


def attack(
    system: System, name: str, settings: adaptive.Settings, n: int = 200
) -> adaptive.Adaptive:
    x, y = system.images[:n], system.labels[:n]
    return adaptive.attack(system.target(name), system.calibration[name], 0.1, x, y, settings, CPU)
