"""Attacks of advertorch, checked before there is anything to attack."""

from pathlib import Path

import numpy as np
import pytest
import torch
from attack_system import System, run
from commands import ROOT

from mistakes.attacks import adaptive, adversaries
from mistakes.config import params
from mistakes.errors import ArgumentError
from mistakes.pipeline.runner import Run

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()
CPU = torch.device("cpu")


def test_unknown_attacks_and_arguments_are_named(system: System) -> None:
    with pytest.raises(ArgumentError, match="class of advertorch.attacks: .*LinfPGDAttack"):
        run(system, "NoSuchAttack", "l2")
    with pytest.raises(ArgumentError, match="is 'epsilon', expected one of .*eps"):
        run(system, "GradientSignAttack", "linf", epsilon=1.0)


class Shift:
    """An attack of one's own: it makes images brighter."""

    def __init__(self, predict: torch.nn.Module, eps: float = 0.1, num_classes: int = 10) -> None:
        self.predict, self.eps, self.num_classes = predict, eps, num_classes

    def perturb(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x + self.eps).clamp(0, 1)


def test_an_attack_of_one_s_own_is_one_like_the_others(system: System, monkeypatch) -> None:
    monkeypatch.setitem(adversaries.ATTACKS, "Shift", Shift)
    adversaries.check("Shift", {"eps": 0.2}, "attacks.x")
    with pytest.raises(ArgumentError, match="is 'size', expected one of eps"):
        adversaries.check("Shift", {"size": 0.2}, "attacks.x")
    made = run(system, "Shift", "linf", eps=0.2)
    assert made.gradients == 0  # a black-box attack
    assert made.linf.max() == pytest.approx(51 / 255)
    assert adversaries.eps("Shift", {}) == 0.1
    with pytest.raises(ArgumentError, match="a class of advertorch.attacks: .*Shift"):
        adversaries.check("NoSuchAttack", {}, "attacks.x")


ARGUMENTS = [
    (
        "LinfSPSAAttack",
        {"delta": 0.1},
        r"attacks.x \(LinfSPSAAttack\).arguments: lacks eps, which it needs; it may have del",
    ),
    (
        "FGSMAttack",
        {},
        (
            r"attacks.x.attack is 'FGSMAttack', expected a class of advertorch.attacks:"
            r" .*GradientSignAttack"
        ),
    ),
    (
        "FastFeatureAttack",
        {},
        "attack is 'FastFeatureAttack', expected a class",
    ),  # it wants a guide, not a label
    ("ChooseBestAttack", {}, "attack is 'ChooseBestAttack', expected a class"),  # of other attacks
    ("Attack", {}, "attack is 'Attack', expected a class"),  # abstract
    (
        "ElasticNetL1Attack",
        {"epsilon": 1},
        "arguments is 'epsilon', expected one of confidence, targeted, ",
    ),
    (
        "LinfPGDAttack",
        {"nb_iter": 2.5},
        r"nb_iter is 2.5, expected a whole number \(its default is 40\)",
    ),
    ("LinfPGDAttack", {"nb_iter": True}, "nb_iter is True, expected a whole number"),
    ("LinfPGDAttack", {"targeted": 1}, "targeted is 1, expected true or false"),
    ("LinfPGDAttack", {"eps": float("nan")}, "eps is nan, expected a number"),
    ("LinfPGDAttack", {"eps": -0.1}, "eps is -0.1, expected 0 or more"),
    ("FABAttack", {"norm": 2}, r"norm is 2, expected to be left out \(its default is Linf\)"),
    (
        "CarliniWagnerL2Attack",
        {"num_classes": 10},
        "arguments is 'num_classes', expected one of confidence",
    ),
]


@pytest.mark.parametrize(("attack", "arguments", "words"), ARGUMENTS)
def test_attacks_that_cannot_be_made_are_refused_in_one_line(attack, arguments, words: str) -> None:
    with pytest.raises(ArgumentError, match=words) as caught:
        adversaries.check(attack, arguments, "attacks.x")
    assert "\n" not in str(caught.value)


def test_an_attack_that_raises_is_one_line_too(system: System) -> None:
    for attack, arguments in (
        ("LocalSearchAttack", {"t": 0}),
        ("LinfSPSAAttack", {"eps": 0.1, "max_batch_size": 0}),
    ):
        with pytest.raises(
            ArgumentError, match=f"{attack} fails with these arguments .*; it is {attack}.predict, "
        ) as caught:
            run(system, attack, "l2", 5, **arguments)
        assert "\n" not in str(caught.value)


def test_whole_numbers_are_numbers_and_counts_are_whole(system: System) -> None:
    assert run(system, "L2PGDAttack", "l2", 20, eps=2, eps_iter=0.5, nb_iter=10).success.any()
    assert np.array_equal(
        run(system, "FGM", "l2", 5, eps=1).images, run(system, "FGM", "l2", 5, eps=1.0).images
    )
    assert (
        run(system, "LinfPGDAttack", "linf", 20, nb_iter=5).linf.max() <= 0.3
    )  # the attack's own eps
    adversaries.check(
        "CarliniWagnerL2Attack", {"confidence": 0.5, "initial_const": 1.5, "clip_min": 0.0}
    )


def test_attacks_are_refused_before_the_training(tmp_path: Path) -> None:
    values = params.parse(
        SMOKE.replace("{eps: 0.2, delta: 0.01, lr: 0.05, nb_iter: 5", "{delta: 0.01, nb_iter: 5")
    )
    with pytest.raises(
        ArgumentError, match="attacks.spsa_05 .LinfSPSAAttack..arguments: lacks eps"
    ):
        Run("classifier", "smoke", values, journaled=False).check_attacks()
    Run("classifier", "smoke", params.parse(SMOKE), journaled=False).check_attacks()


def attack(
    system: System, name: str, settings: adaptive.Settings, n: int = 200
) -> adaptive.Adaptive:
    x, y = system.images[:n], system.labels[:n]
    return adaptive.attack(system.target(name), system.calibration[name], 0.1, x, y, settings, CPU)
