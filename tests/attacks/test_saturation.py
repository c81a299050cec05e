"""Very confident networks are attacked by their margin."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from attack_system import EASY, System
from commands import SMOKE
from custom_entries import take
from safetensors.torch import load_file, save_file
from torch import Tensor

import stages.adversarial
from mistakes.artifacts import load_csv, save_arrays
from mistakes.attacks import adaptive, adversarial, saturation
from mistakes.config import params
from mistakes.networks import architectures, external, models
from mistakes.pipeline.runner import Run

CPU = torch.device("cpu")


def attacked(
    model: external.Custom, digits: Any, folder: Path, **attacks_: Any
) -> tuple[dict[str, float], list[str]]:
    """Return how often each attack succeeded, with the values of the checks, and the warnings of
    stage adversarial, which writes to folder/out.
    """
    document = yaml.safe_load(SMOKE)
    section = document["adversarial"]
    section["attacks"] = attacks_ or {
        name: section["attacks"][name] for name in ("fgsm_05", "pgd_02", "pgd_05", "ddn")
    }
    external.save(model, folder / "model.safetensors")
    save_arrays(folder / "test", images=digits[0][1000:1400], labels=digits[1][1000:1400])
    known = Run("adversarial", "mine", params.parse(yaml.safe_dump(document)), journaled=False)
    (folder / "out").mkdir()
    out = folder / "out"
    stages.adversarial.main.__wrapped__(known, folder / "test", folder / "model.safetensors", out)
    table, checks = load_csv(out / "attacks.csv"), load_csv(out / "checks.csv")
    found = dict(zip(table["attack"], table["succeeded"], strict=True))
    return found | dict(zip(checks["check"], checks["value"], strict=True)), known.warnings


@pytest.fixture
def sure(trained, tmp_path: Path) -> dict[int, Path]:
    """Weights whose softmax saturates in float32."""
    weights = load_file(trained[10])
    weights |= {f"head.{key}": 2000 * weights[f"head.{key}"] for key in ("weight", "bias")}
    save_file(weights, tmp_path / "sure.safetensors")
    return {10: tmp_path / "sure.safetensors"}


def test_a_very_sure_network_is_attacked_by_its_margin_and_ends_nothing(
    sure, trained, digits, tmp_path: Path
) -> None:
    plain, said = attacked(
        take(trained, "logits_features", digits[0][:20]), digits, tmp_path / "plain"
    )
    assert plain["zero_gradients"] == 0
    assert not said
    found, said = attacked(take(sure, "logits_features", digits[0][:20]), digits, tmp_path / "sure")
    assert found["zero_gradients"] > 0.5
    assert "the cross-entropy has a gradient of exactly zero at" in said[0]
    for attack in ("pgd_02", "pgd_05", "ddn"):
        assert found[attack] >= 0.9 * plain[attack] > 0


def test_a_network_without_any_gradient_is_not_attacked_and_one_that_no_attack_moves_is_said(
    trained, digits, tmp_path: Path, capsys
) -> None:
    found, _ = attacked(take(trained, "flat", digits[0][:20]), digits, tmp_path / "flat")
    assert found == {}
    assert f"adversarial: nothing to do: {models.FLAT}" in capsys.readouterr().out
    assert json.loads((tmp_path / "flat/out/sets/skipped.json").read_text()) == {
        "reason": models.FLAT
    }
    weak = {"attack": "GradientSignAttack", "norm": "linf", "arguments": {"eps": 1.0e-4}}
    found, said = attacked(
        take(trained, "tensor", digits[0][:20]), digits, tmp_path / "weak", weak=weak
    )
    assert found["weak"] == 0
    assert said == [
        "no attack succeeds on any image, so there is no adversarial image to be detected"
    ]


def test_attacks_that_a_sure_network_withstands_are_warned_of(sure, digits, tmp_path: Path) -> None:
    strong = {
        "attack": "LinfPGDAttack",
        "norm": "linf",
        "arguments": {"eps": 0.2, "eps_iter": 0.05, "nb_iter": 5},
    }
    weak = strong | {
        "arguments": {"eps": 0.3, "eps_iter": 1.0e-6, "nb_iter": 5, "rand_init": False}
    }
    found, said = attacked(
        take(sure, "tensor", digits[0][:20]), digits, tmp_path / "a", strong=strong, weak=weak
    )
    assert found["weak"] == 0 < found["strong"]
    assert "attacks.weak is success 0.000 at eps 0.3" in said[1]
    assert "a classifier that is so sure can hide" in said[1]


class Sure(torch.nn.Module):
    """The same classifier, so sure that its softmax saturates in float32."""

    def __init__(self, model: architectures.Classifier, factor: float) -> None:
        super().__init__()
        self.model, self.classes, self.factor = model, model.classes, factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * self.model(z)


def test_a_saturated_classifier_is_attacked_by_its_margin(system: System) -> None:
    x, y = system.images[:100], system.labels[:100]
    said: list[str] = []
    sure = Sure(system.model, 1e4)
    victim, saturated, flat = saturation.attackable(sure, x, y, CPU, 50, most=0.5, warn=said.append)
    assert saturated.mean() > 0.9
    assert not flat.any()
    arguments = {"eps": 0.15, "eps_iter": 0.03, "nb_iter": 10}
    made = {}
    for name, model in (("plain", system.model), ("sure", sure), ("victim", victim)):
        made[name] = adversarial.run(model, x, y, "LinfPGDAttack", "linf", arguments, 0, CPU, 50)
    assert made["sure"].success.mean() < 0.2  # what an attack on the cross-entropy finds
    assert made["victim"].success.mean() == pytest.approx(made["plain"].success.mean(), abs=0.05)
    assert np.array_equal(
        adversarial.predict(victim, x, CPU, 50), adversarial.predict(sure, x, CPU, 50)
    )
    assert f"zero at {saturated.sum()} of 100 attacked images" in said[0]


@pytest.mark.parametrize("attack", ["DDNL2Attack", "L2PGDAttack", "LinfMomentumIterativeAttack"])
def test_other_attacks_too_work_on_a_saturated_classifier(system: System, attack: str) -> None:
    x, y = system.images[:40], system.labels[:40]
    arguments = (
        {"nb_iter": 30} if attack == "DDNL2Attack" else {"eps": 2.0, "eps_iter": 0.2, "nb_iter": 20}
    )
    victim, _, _ = saturation.attackable(
        Sure(system.model, 1e5), x, y, CPU, 50, most=1.0, warn=pytest.fail
    )
    made = adversarial.run(victim, x, y, attack, "l2", arguments, 0, CPU, 50)
    assert made.success.mean() > 0.8


def test_a_classifier_without_any_gradient_is_told_from_a_saturated_one(system: System) -> None:
    class Rounded(Sure):
        def forward(self, z: Tensor) -> Tensor:
            return self.model((z * 4).round() / 4)  # the gradient of rounding is 0 everywhere

    class Log(Sure):
        """The logarithm of a softmax that is 0 has a gradient that is NaN."""

        def forward(self, z: Tensor) -> Tensor:
            return external.whole(super().forward(z).softmax(1).log(), single=False)

    x, y = system.images[:40], system.labels[:40]
    flat = {}
    for kind in (Rounded, Log):
        victim, _, flat[kind] = saturation.attackable(
            kind(system.model, 1e4), x, y, CPU, 50, most=0.0, warn=print
        )
        made = adversarial.run(
            victim, x, y, "LinfPGDAttack", "linf", {"eps": 0.1, "nb_iter": 3}, 0, CPU, 50
        )
        assert made.success.mean() < 0.5
    assert flat[Rounded].all()
    assert flat[Log].mean() > 0.9
    assert "at 40 no loss has a gradient" in saturation.warning(flat[Rounded], flat[Rounded])


def test_the_adaptive_attack_too_goes_around_saturation(system: System) -> None:
    x, y = system.images[:60], system.labels[:60]
    sure = Sure(system.model, 1e4)
    silent = lambda outputs: outputs.logits.sum(1) * 0 - 9.0  # noqa: E731

    class Outputs:
        def tensors(self, z: Tensor) -> "Outputs":
            self.logits = sure(z)
            return self

    rates = []
    for saturated in (False, True):
        target = adaptive.target(Outputs(), silent, saturated)
        settings = dataclasses.replace(EASY, eps=0.2)
        rates.append(
            adaptive.attack(target, np.arange(100) / 100, 0.1, x, y, settings, CPU).success.mean()
        )
    assert rates[0] < 0.2
    assert rates[1] > 0.7
