"""The adaptive attack against weaker ones, finite differences and exact intervals."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from attack_system import EASY, System, attack, run
from torch import Tensor

from mistakes.attacks import adaptive
from mistakes.data.pixels import to_unit
from mistakes.detectors import conformal, scoring
from mistakes.errors import ArgumentError
from mistakes.networks.extraction import Extractor

CPU = torch.device("cpu")
DETECTORS = scoring.NAMES


# the adaptive attack


@pytest.mark.parametrize("name", DETECTORS)
def test_target_scores_as_the_pipeline_does_and_its_gradient_is_that_of_finite_differences(
    system, name: str
) -> None:
    batch = system.extractor.whole(system.images[:50], 50)
    expected = system.detectors.score(batch)[name]
    logits, score = system.target(name)(to_unit(system.images[:50]))
    assert logits.numpy() == pytest.approx(batch.logits, abs=1e-4)
    assert score.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)

    double = copy.deepcopy(system.detectors)
    double.density.double(), double.guard.double()
    network, views = copy.deepcopy(system.model).double(), ["left_1", "mirror"]
    extractor = Extractor(network, "penultimate", None, CPU, views)
    through = adaptive.target(extractor, double.differentiable(name))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 1, 8, 8, generator=generator, dtype=torch.double).requires_grad_()
    direction = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.double)
    for part in (lambda q: through(q)[1], lambda q: through(q)[0][:, 3]):
        (gradient,) = torch.autograd.grad(part(x).sum(), x)
        h = 1e-6
        difference = (part(x + h * direction) - part(x - h * direction)).detach() / (2 * h)
        found = (gradient * direction).sum((1, 2, 3))
        assert (found.abs() > 0).all()
        assert found.numpy() == pytest.approx(difference.numpy(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.24])
def test_above_the_threshold_is_a_p_value_of_at_most_alpha(
    ties: bool, alpha: float, rng: np.random.Generator
) -> None:
    calibration = rng.normal(size=99).round(1 if ties else 9)
    limit = adaptive.threshold(calibration, alpha)
    s = np.r_[rng.normal(size=1000).round(1), calibration, calibration + 1e-9, 9.0]
    assert np.array_equal(s > limit, conformal.p_values(calibration, s) <= alpha)
    with pytest.raises(ArgumentError, match="alpha is 0.009, expected at least 1/100"):
        adaptive.threshold(calibration, 0.009)


@pytest.mark.parametrize("name", ["nll", "joint", "msp", "mahalanobis", "knn"])
def test_knowing_the_detector_never_weakens_the_attack(system: System, name: str) -> None:
    x, y = system.images[:200], system.labels[:200]
    plain = run(system, "LinfPGDAttack", "linf", 200, eps=0.08, eps_iter=0.025, nb_iter=8)
    found = {"plain": system.judge(name, plain.images, y)[1]}
    for label, change in {
        "zero": {},
        "lambda": {"lambdas": (0.0, 0.3, 3.0)},
        "steps": {"lambdas": (0.0, 0.3, 3.0), "steps": 20},
        "restarts": {"lambdas": (0.0, 0.3, 3.0), "steps": 20, "restarts": 2},
    }.items():
        made = attack(system, name, dataclasses.replace(EASY, **change))
        success, found[label] = system.judge(name, made.images, y)
        assert np.array_equal(success, made.success)
        assert (
            found[label] != made.undetected
        ).mean() <= 0.01  # float32 beside float64 at the threshold
        assert (np.abs(made.images.astype(int) - x) <= int(0.08 * 255)).all()
        assert np.array_equal(made.images[~success], x[~success])
    rates = {label: undetected.mean() for label, undetected in found.items()}
    assert rates["zero"] <= rates["lambda"] <= rates["steps"] <= rates["restarts"], rates
    assert rates["plain"] <= rates["lambda"], rates
    assert rates["plain"] < rates["restarts"], rates


def test_lambda_0_succeeds_as_often_as_plain_pgd(system: System) -> None:
    """With a detector that is never silent the descent uses all of its steps, as plain PGD does."""
    plain = run(
        system, "LinfPGDAttack", "linf", eps=0.08, eps_iter=0.01, nb_iter=20, rand_init=False
    )
    x, y = system.images, system.labels
    settings = dataclasses.replace(EASY, steps=20, batch_size=500)

    def loud(q: Tensor) -> tuple[Tensor, Tensor]:
        logits = system.model(q)
        return logits, 9.0 + logits.sum(1) * 0

    made = adaptive.attack(loud, np.arange(100) / 100, 0.1, x, y, settings, CPU)
    assert not made.undetected.any()
    assert 0.1 < plain.success.mean() < 0.9
    assert made.success.mean() >= plain.success.mean()
    assert made.success.mean() == pytest.approx(plain.success.mean(), abs=0.03)


def test_a_detector_that_never_fires_is_evaded_by_every_success(system: System) -> None:
    silent = lambda q: (system.model(q), -9.0 + q.sum((1, 2, 3)) * 0)  # noqa: E731
    x, y = system.images[:50], system.labels[:50]
    made = adaptive.attack(
        silent, np.arange(100) / 100, 0.1, x, y, dataclasses.replace(EASY, eps=0.3), CPU
    )
    assert np.array_equal(made.undetected, made.success)
    assert made.success.all()


def test_attack_is_a_function_of_its_seed_and_not_of_the_batch_size(system: System) -> None:
    settings = dataclasses.replace(EASY, lambdas=(0.0, 1.0), restarts=2)
    first, again = (attack(system, "nll", settings, 60) for _ in range(2))
    other = attack(system, "nll", dataclasses.replace(settings, batch_size=17), 60)
    assert np.array_equal(first.images, again.images)
    assert (first.undetected != other.undetected).sum() <= 1  # float32 kernels round differently


def test_rows_have_exact_intervals_and_refuse_an_attack_weaker_than_plain_pgd() -> None:
    won, lost, p = (
        np.arange(10) < 8,
        np.zeros(10, bool),
        {"msp": np.r_[np.full(5, 0.04), np.full(5, 0.2)]},
    )
    first, second = adaptive.rows(0.1, {"none": (won, p), "msp": (won, p)}, 0.05, 0.95)
    assert first == {
        "target": "none",
        "eps": 0.1,
        "score": "msp",
        "attempted": 10,
        "succeeded": 8,
        "undetected": 3,
        "rate": 0.3,
        # Clopper and Pearson's
        "low": pytest.approx(0.0667, abs=1e-4),
        "high": pytest.approx(0.6525, abs=1e-4),
    }
    assert second["rate"] == 0.3
    loud = {"msp": np.full(10, 0.2)}
    with pytest.raises(
        ArgumentError, match=r"detectors .msp. is undetected at a rate of 0.000, plain PGD of 0.800"
    ):
        adaptive.rows(0.1, {"none": (won, loud), "msp": (lost, loud)}, 0.05, 0.95)


def test_unknown_detectors_are_named(system: System) -> None:
    with pytest.raises(
        ArgumentError,
        match="detectors is 'odin', expected one of guard, nll, joint, posterior, msp_views, msp",
    ):
        system.target("odin")(to_unit(system.images[:2]))
