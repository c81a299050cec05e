"""Attacks against a second library, closed forms and invariants; the adaptive attack against weaker
ones.
"""

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from sklearn.datasets import load_digits
from torch import Tensor

from mistakes import artifacts
from mistakes.attacks import adaptive, adversarial, adversaries, saturation
from mistakes.config import params
from mistakes.data.features import Batch
from mistakes.data.pixels import to_unit
from mistakes.detectors import baselines, conformal, density, guard, scoring
from mistakes.errors import ArgumentError
from mistakes.networks import architectures, external, training
from mistakes.networks.extraction import Extractor
from mistakes.pipeline.runner import Run

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()
CPU = torch.device("cpu")
DETECTORS = scoring.NAMES


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


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    digits = load_digits()
    images, labels = (digits.images * 255 / 16).round().astype(np.uint8)[:, None], digits.target
    schedule = training.Schedule(8, 32, 0.05, 0.9, 1e-4, False, 0, "float32", 0)
    model = architectures.new("small_cnn", 8, 10, images[:900], 0)
    checkpoint = tmp_path_factory.mktemp("system") / "c.safetensors"
    training.train(model, images[:900], labels[:900], schedule, CPU, lambda *_: {}, checkpoint)
    model.eval().requires_grad_(False)
    extractor = Extractor(model, "penultimate", None, CPU)
    fit, cal = extractor.whole(images[:900], 500), extractor.whole(images[900:1200], 500)
    settings = density.Optimisation(4, 4, 64, 1e-3, 5.0, 0)
    nothing = lambda *_, **__: None  # noqa: E731
    flow = density.fit(
        fit.features, cal.features, "maf", "direction_norm", 8, 2, 16, settings, CPU, nothing
    ).density
    others = baselines.fit(
        fit.features, fit.logits, labels[:900], baselines.Settings(0, 0.1, None, 5, 8, 5, 900, 0.5)
    )
    flow.requires_grad_(False)
    right = cal.take(np.flatnonzero(cal.logits.argmax(1) == labels[900:1200]))
    shares = dict.fromkeys(guard.PARTS, 0.2)
    reference = (right.early, right.logits, density.evaluate(flow.log_prob, right.features))
    guarded = guard.fit(
        fit.early, fit.logits, reference, guard.Settings(0, shares, 16, 5, 64, 2e-3)
    )
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


def test_unknown_attacks_and_arguments_are_named(system: System) -> None:
    with pytest.raises(ArgumentError, match="class of advertorch.attacks: .*LinfPGDAttack"):
        run(system, "NoSuchAttack", "l2")
    with pytest.raises(ArgumentError, match="is 'epsilon', expected one of .*eps"):
        run(system, "GradientSignAttack", "linf", epsilon=1.0)


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
    assert "at 40 no loss has a gradient" in saturation.told(flat[Rounded], flat[Rounded])


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
    extractor = Extractor(copy.deepcopy(system.model).double(), "penultimate", None, CPU)
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
    with pytest.raises(ArgumentError, match="detection.alpha is 0.009, expected at least 1/100"):
        adaptive.threshold(calibration, 0.009)


EASY = adaptive.Settings(0.08, 8, (0.0,), 1, 200, 0)


def attack(
    system: System, name: str, settings: adaptive.Settings, n: int = 200
) -> adaptive.Adaptive:
    x, y = system.images[:n], system.labels[:n]
    return adaptive.attack(system.target(name), system.calibration[name], 0.1, x, y, settings, CPU)


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
        match="detectors is 'odin', expected one of guard, nll, joint, msp",
    ):
        system.target("odin")(to_unit(system.images[:2]))
