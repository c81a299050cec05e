"""Very confident networks are attacked by their margin."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import SMOKE
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

import stages.adversarial
from mistakes.artifacts import load_csv, save_arrays
from mistakes.attacks import adaptive, adversarial, saturation
from mistakes.config import params
from mistakes.data.features import Batch
from mistakes.detectors import baselines, conformal, density, guard, scoring
from mistakes.networks import architectures, external, models, training, validate_external
from mistakes.networks.extraction import Extractor
from mistakes.pipeline.runner import Run

CPU = torch.device("cpu")


CODE = """
import dataclasses
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import torch
from torch import nn

Pair = namedtuple("Pair", "hidden scores")

class ModelOutput(OrderedDict):  # as in transformers: a mapping with attributes
    @property
    def logits(self):
        return self["logits"]

@dataclasses.dataclass
class Plain:
    logits: torch.Tensor
    hidden: torch.Tensor

FORMS = {
    "tensor": lambda y, z: y,
    "logits_features": lambda y, z: (y, z),
    "features_logits": lambda y, z: [z, y],
    "one": lambda y, z: (y,),
    "nested": lambda y, z: (y, (z, z), None),
    "dict": lambda y, z: {"features": z, "logits": y},
    "other_names": lambda y, z: {"hidden": z, "scores": y},
    "model_output": lambda y, z: ModelOutput(loss=None, logits=y, hidden_states=(z, z)),
    "dataclass": lambda y, z: Plain(y, z),
    "namespace": lambda y, z: SimpleNamespace(logits=y, hidden=z),
    "namedtuple": lambda y, z: Pair(z, y),
    "two": lambda y, z: (y, -y),
    "two_named": lambda y, z: {"main": y, "auxiliary": -y},
    "wide": lambda y, z: (z, z),
    "text": lambda y, z: "cat",
    "nothing": lambda y, z: None,
    "column": lambda y, z: y[:, 1:] - y[:, :1],
    "row": lambda y, z: (y[:, 1] - y[:, 0]).double(),
    "column_and_features": lambda y, z: (z, y[:, 1:] - y[:, :1]),
    "softmax": lambda y, z: y.softmax(1),
    "half_softmax": lambda y, z: y.softmax(1).half(),
    "sigmoid": lambda y, z: (y[:, 1:] - y[:, :1]).sigmoid(),
    "sigmoids": lambda y, z: y.sigmoid(),
    "log": lambda y, z: (50 * y).softmax(1).log(),
    "half": lambda y, z: y.half(),
    "flat": lambda y, z: y,
    "nan": lambda y, z: y,
}

class Net(nn.Module):
    def __init__(self, classes, form, trace=True):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 32), nn.Linear(32, classes)
        self.form, self.trace = form, trace

    def forward(self, x):
        if not self.trace and x.mean() > 1e9:  # what torch.fx cannot follow
            x = x / 2
        if self.form == "flat":
            x = (4 * x).round() / 4
        z = self.hidden(x.reshape(x.shape[0], -1)).relu()
        y = self.head(z)
        if self.form == "nan":  # for one white image
            y = torch.where((x > 1.9).flatten(1).all(1)[:, None], y * torch.nan, y)
        return FORMS[self.form](y, z)

def make(classes=10, form="tensor", trace=True):
    return Net(classes, form, trace)

def tv(classes=10):
    from torchvision.models import VisionTransformer
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48}
    return VisionTransformer(32, 8, num_classes=classes, **sizes)

def swin(classes=10):
    from torchvision.models import SwinTransformer
    return SwinTransformer([2, 2], 12, [2, 2], [2, 2], [4, 4], num_classes=classes)

def convnext(classes=10):
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=classes)

def timm_vit(**k):
    import timm
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}
    sizes |= {"num_heads": 2, "num_classes": 10}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, **sizes, **k)

def timm_without_class_token():
    return timm_vit(class_token=False, global_pool="avg")

def timm_swin():
    import timm
    sizes = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 12, "num_classes": 10}
    sizes |= {"depths": (2, 2), "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **sizes)

class Encoder(nn.Module):
    def __init__(self, follow):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 8, 8)
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head, self.follow = nn.Linear(12, 10), follow

    def forward(self, x):
        if not self.follow and x.mean() > 1e9:
            x = x / 2
        return self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

def encoder(follow=True):
    return Encoder(follow)

class Sound(nn.Module):  # rows of pixels as a series with channels
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(96, 16, 3, padding=1), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.conv(x.reshape(x.shape[0], 96, 32)).relu().mean(2))

def sound():
    return Sound()

class First(nn.Module):  # torch's transformers have the tokens first, if nothing is said
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, (16, 8), (16, 8))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.norm(self.embed(x).flatten(2).permute(2, 0, 1)).mean(0))

def tokens_first():
    return First()

class Bare(nn.Module):  # nothing shows where the channels are
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        parts = x.reshape(x.shape[0], 48, 64).relu()
        return self.head(parts.mean(2))

def bare():
    return Bare()
"""


INPUT = {"mean": [0.3], "std": [0.35], "channels": 1, "size": None}


@pytest.fixture(scope="module", autouse=True)
def code(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("code")
    (folder / "usernets.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    import usernets

    yield usernets
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None], found.target


@pytest.fixture(scope="module")
def trained(code, digits, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Weights of the network for ten digits, and for whether a digit is 5 or more."""
    folder, found = tmp_path_factory.mktemp("trained"), {}
    x = (torch.as_tensor(digits[0][:1000]).float() / 255 - 0.3) / 0.35
    for classes in (10, 2):
        torch.manual_seed(0)
        net, y = code.make(classes), torch.as_tensor(digits[1][:1000])
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            loss = nn.functional.cross_entropy(net(x), y if classes == 10 else (y >= 5).long())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found[classes] = folder / f"{classes}.safetensors"
        save_file(net.state_dict(), found[classes])
    return found


def entry(**values: Any) -> dict[str, Any]:
    """Pass an entry through params.yaml."""
    base = {
        "source": "entrypoint",
        "weights": None,
        "arguments": {},
        "layer": "hidden",
        "early": [],
        **INPUT,
    }
    document = yaml.safe_load(SMOKE) | {"classifiers": {"mine": base | values}}
    return params.parse(yaml.safe_dump(document)).classifiers["mine"].model_dump()


def take(
    trained: dict[int, Path],
    form: str,
    images: np.ndarray,
    classes: int = 10,
    trace: bool = True,
    **more: Any,
):
    arguments = {"form": form, "classes": classes, "trace": trace}
    values = entry(
        entrypoint="usernets:make", arguments=arguments, weights=str(trained[classes]), **more
    )
    return validate_external.take(values, "classifiers.mine", images, classes, CPU)


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
        assert found[f"{attack}"] >= 0.9 * plain[f"{attack}"] > 0


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


EASY = adaptive.Settings(0.08, 8, (0.0,), 1, 200, 0)


def attack(
    system: System, name: str, settings: adaptive.Settings, n: int = 200
) -> adaptive.Adaptive:
    x, y = system.images[:n], system.labels[:n]
    return adaptive.attack(system.target(name), system.calibration[name], 0.1, x, y, settings, CPU)
