"""Attacks against a second library, closed forms and invariants; the adaptive attack against weaker
ones.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_system import System, run
from commands import ROOT
from torch import Tensor

from mistakes import artifacts
from mistakes.attacks import adaptive, adversarial, saturation
from mistakes.data.pixels import to_unit
from mistakes.errors import ArgumentError
from mistakes.networks import architectures

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()
CPU = torch.device("cpu")


# attacks


def test_success_grows_with_eps_and_stays_within_it_after_rounding(system: System) -> None:
    rates = []
    for eps in (0.003, 0.1, 0.5):
        made = run(system, "LinfPGDAttack", "linf", 60, eps=eps, eps_iter=eps / 5, nb_iter=10)
        change = np.abs(made.images.astype(int) - system.images[:60]).max((1, 2, 3))
        assert (change <= int(eps * 255)).all()
        assert made.linf == pytest.approx(change / 255, abs=1e-6)
        assert np.array_equal(
            made.success,
            adversarial.predict(system.model, made.images, CPU, 50) != system.labels[:60],
        )
        rates.append(made.success.mean())
    assert rates[0] == 0  # less than one grey level: nothing is left of it in an 8-bit image
    assert 0 < rates[1] < rates[2]
    assert rates[2] > 0.99


@pytest.mark.parametrize("eps", [0.02, 0.3, 1.5])
def test_l2_attacks_stay_within_eps_after_rounding(system: System, eps: float) -> None:
    made = run(system, "L2PGDAttack", "l2", 100, eps=eps, eps_iter=eps / 4, nb_iter=10)
    change = (made.images.astype(float) - system.images[:100]).reshape(100, -1) / 255
    assert np.linalg.norm(change, axis=1) == pytest.approx(made.l2, abs=1e-6)
    assert (made.l2 <= eps + 1e-6).all()
    assert (made.l2 > 0.5 * eps).mean() > 0.9  # and use it


def test_minimal_l2_attack_finds_the_distance_of_a_linear_model_from_its_boundary(
    rng: np.random.Generator,
) -> None:
    images = rng.integers(60, 190, (30, 1, 8, 8)).astype(np.uint8)
    model = architectures.new("small_cnn", 4, 2, images, 0)
    model.net = (
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval().requires_grad_(False)
    )
    labels = adversarial.predict(model, images, CPU, 30)
    made = adversarial.run(model, images, labels, "DDNL2Attack", "l2", {"nb_iter": 200}, 0, CPU, 30)
    logits, w = model(to_unit(images)), model.net[1].weight / model.std.squeeze()
    distance = ((logits[:, 0] - logits[:, 1]).abs() / (w[0] - w[1]).norm()).numpy()
    far = distance > 0.1  # where rounding to grey levels (0.016 in L2) is not all of the change
    assert far.sum() >= 10
    assert made.l2[far] == pytest.approx(distance[far], rel=0.15, abs=0.02)


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        ("LinfPGDAttack", {"eps": 0.2, "nb_iter": 3, "rand_init": False}),
        ("LinfBasicIterativeAttack", {"eps": 0.2, "nb_iter": 3}),
        ("DDNL2Attack", {"nb_iter": 5}),
        (
            "CarliniWagnerL2Attack",
            {"max_iterations": 5, "binary_search_steps": 1, "abort_early": False},
        ),
    ],
)
def test_attacks_do_not_depend_on_the_batch_size(
    system: System, attack: str, arguments: dict[str, float]
) -> None:
    some, all_ = (run(system, attack, "l2", 20, size, **arguments) for size in (7, 20))
    assert (
        some.images != all_.images
    ).mean() < 0.01  # float32 kernels round differently for other batch sizes


def test_targeted_attacks_aim_at_another_class(system: System) -> None:
    aimed, broken = (
        run(
            system,
            "LinfPGDAttack",
            "linf",
            100,
            eps=0.3,
            eps_iter=0.05,
            nb_iter=20,
            targeted=targeted,
        )
        for targeted in (True, False)
    )
    assert aimed.success.mean() > 0.7
    assert not np.array_equal(aimed.images, broken.images)
    jsma = run(
        system, "JacobianSaliencyMapAttack", "l2", 20, theta=1.0, gamma=0.5
    )  # knows no other kind
    assert jsma.success.any()


@pytest.mark.parametrize("eps", [0.05, 0.1])
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "bim"])
def test_success_rates_agree_with_foolbox(system: System, kind: str, eps: float) -> None:
    import foolbox

    steps = {"eps_iter": eps / 8, "nb_iter": 15}
    theirs, name, ours = {
        "fgsm": (foolbox.attacks.LinfFastGradientAttack(), "GradientSignAttack", {}),
        "pgd": (
            foolbox.attacks.LinfPGD(abs_stepsize=eps / 8, steps=15, random_start=False),
            "LinfPGDAttack",
            steps | {"rand_init": False},
        ),
        "bim": (
            foolbox.attacks.LinfBasicIterativeAttack(
                abs_stepsize=eps / 8, steps=15, random_start=False
            ),
            "LinfBasicIterativeAttack",
            steps,
        ),
    }[kind]
    made = run(system, name, "linf", eps=eps, **ours)
    model = foolbox.PyTorchModel(system.model, bounds=(0, 1), device="cpu")
    _, found, _ = theirs(
        model, to_unit(system.images), torch.as_tensor(system.labels), epsilons=eps
    )
    stored = adversarial._store(system.images, found.numpy(), "linf", eps)
    second = (adversarial.predict(system.model, stored, CPU, 500) != system.labels).mean()
    assert 0.02 < second < 0.98  # where an attack could differ
    assert made.success.mean() == pytest.approx(second, abs=0.02)


def test_spsa_is_a_black_box_attack_that_works(system: System) -> None:
    arguments = {
        "eps": 0.15,
        "delta": 0.01,
        "lr": 0.05,
        "nb_iter": 10,
        "nb_sample": 32,
        "max_batch_size": 32,
    }
    made = run(system, "LinfSPSAAttack", "linf", 40, **arguments)
    assert made.gradients == 0
    assert made.success.mean() > 0.2
    noise = system.images[:40] + np.random.default_rng(0).choice([-38, 38], (40, 1, 8, 8))
    guessed = (
        adversarial.predict(system.model, noise.clip(0, 255).astype(np.uint8), CPU, 40)
        != system.labels[:40]
    )
    assert made.success.mean() > guessed.mean() + 0.1  # it learns from the logits

    class Opaque(torch.nn.Module):
        """The same classifier, with nothing to differentiate."""

        classes = system.model.classes

        def forward(self, x: Tensor) -> Tensor:
            return system.model(x.detach()).detach()

    x, y = system.images[:40], system.labels[:40]
    blind = adversarial.run(Opaque(), x, y, "LinfSPSAAttack", "linf", arguments, 0, CPU, 500)
    assert np.array_equal(blind.images, made.images)
    with pytest.raises(
        ArgumentError,
        match="LinfPGDAttack fails .*does not require grad.*it is LinfPGDAttack.predict, ",
    ):
        adversarial.run(Opaque(), x, y, "LinfPGDAttack", "linf", {"eps": 0.1}, 0, CPU, 500)
    assert run(system, "LinfPGDAttack", "linf", 40, eps=0.1, nb_iter=3).gradients == 3


# sanity checks


def trial(
    success: list[int], eps: float | None, attack: str = "A", black_box: bool = False
) -> adversarial.Trial:
    return adversarial.Trial(
        attack, "linf", eps, black_box, np.arange(len(success)), np.array(success, bool)
    )


def test_mcnemar_has_its_closed_form() -> None:
    both, neither = [True, False], [True, False]
    a, b = (
        np.array([*both, *[True] * 7, *[False] * 2]),
        np.array([*neither, *[False] * 7, *[True] * 2]),
    )
    assert adversarial.mcnemar(a, b) == pytest.approx(
        46 / 512
    )  # P(X >= 7), X ~ Binomial(9, 1/2): 36 + 9 + 1
    assert adversarial.mcnemar(b, a) == pytest.approx(1 - 10 / 512)
    assert adversarial.mcnemar(a, a) == 1


def test_success_that_falls_with_eps_is_refused() -> None:
    strong, weak = [1] * 9 + [0], [0] * 9 + [1]
    grown = adversarial.check_growth(
        {"a_02": trial(weak, 0.02), "a_01": trial(weak, 0.01), "b": trial(weak, 0.3, "B")}, 0.01
    )
    assert grown == {"a_01.a_02": 0}
    assert adversarial.check_growth({"x": trial(strong, 0.2), "y": trial(weak, 0.1)}, 0.01) == {
        "y.x": pytest.approx(0.8)
    }
    assert adversarial.check_growth({"x": trial(strong, None), "y": trial(weak, None)}, 0.01) == {}
    with pytest.raises(
        ArgumentError,
        match=r"attacks.y is success 0.000 at eps 0.2, 0.900 at eps 0.1 \(x\), p = 0.002",
    ):
        adversarial.check_growth({"x": trial(strong, 0.1), "y": trial([0] * 10, 0.2)}, 0.01)


def test_white_box_weaker_than_black_box_is_refused() -> None:
    strong, weak = [1] * 9 + [0], [0] * 10
    black = trial(strong, 0.1, "SPSA", True)
    found = adversarial.check_black_box(
        {"spsa": black, "bad": trial(weak, 0.1), "good": trial(strong, 0.1, "B")}, 0.01
    )
    assert found == {"spsa.good": 0}
    with pytest.raises(
        ArgumentError,
        match="attacks.spsa is black-box success 0.900, white-box success 0.000 .bad.",
    ):
        adversarial.check_black_box({"spsa": black, "bad": trial(weak, 0.1)}, 0.01)
    with pytest.raises(
        ArgumentError, match="expected a gradient-based attack with norm linf and eps 0.1"
    ):
        adversarial.check_black_box({"spsa": black, "other": trial(strong, 0.2)}, 0.01)


def test_a_broken_attack_is_refused(system: System) -> None:
    x, y = system.images[:100], system.labels[:100]
    made = run(system, "LinfPGDAttack", "linf", 50, eps=0.5, eps_iter=0.1, nb_iter=10)
    assert adversarial.check_unbounded("u", made, 0.99) == 1
    broken = dataclasses.replace(made, success=np.arange(50) % 2 == 0)
    with pytest.raises(ArgumentError, match="u is success 0.500 of 50 images, expected at least"):
        adversarial.check_unbounded("u", broken, 0.99)
    said: list[str] = []
    assert (
        saturation.attackable(system.model, x, y, CPU, 50, most=0.0, warn=said.append)[0]
        is system.model
    )
    assert not said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "images: 40, arguments: {eps: 0.5,",
            "images: 40, arguments: {eps: 0.01,",
            "sanity.unbounded is success",
        ),
        (
            "{eps: 0.2, eps_iter: 0.05, nb_iter: 5}",
            "{eps: 0.3, eps_iter: 1.0e-6, nb_iter: 5, rand_init: false}",
            "attacks.pgd_05 is success 0.000 at eps 0.3",
        ),
    ],
)
def test_stage_stops_where_an_attack_is_unsound(
    system: System, tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in SMOKE
    (tmp_path / "params.yaml").write_text(SMOKE.replace(old, new))
    artifacts.save_arrays(tmp_path / "test", images=system.images, labels=system.labels)
    architectures.save(system.model, tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "stages.adversarial", "test", "model.safetensors", "out"]
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def attack(
    system: System, name: str, settings: adaptive.Settings, n: int = 200
) -> adaptive.Adaptive:
    x, y = system.images[:n], system.labels[:n]
    return adaptive.attack(system.target(name), system.calibration[name], 0.1, x, y, settings, CPU)
