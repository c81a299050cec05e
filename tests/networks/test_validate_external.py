"""What networks and files of users are like: outputs, tokens, one logit, probabilities, labels in
another order.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import SMOKE, refused, run
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

import stages.adversarial
from mistakes.artifacts import save_arrays
from mistakes.attacks import adversarial
from mistakes.config import params
from mistakes.data import agreement, feature_files, logits
from mistakes.detectors import density, guard
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, layers, models, validate_external
from mistakes.networks.extraction import Extractor
from mistakes.pipeline.runner import Run
from mistakes.serving import guard_model

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


# which of several outputs are the logits


FORMS = {
    "logits_features": None,
    "features_logits": None,
    "one": None,
    "nested": None,
    "dict": None,
    "other_names": None,
    "model_output": None,
    "dataclass": None,
    "namespace": None,
    "namedtuple": None,
    "two": 0,
    "two_named": "main",
    "half": None,
}


@pytest.mark.parametrize("trace", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_among_the_outputs_wherever_the_network_is_called(
    form: str, trace: bool, trained, digits, tmp_path: Path
) -> None:
    images, truth = digits[0][1000:1060], digits[1][1000:1060]
    expected = (
        take(trained, "tensor", images)(torch.as_tensor(images).float() / 255).detach().numpy()
    )
    external.save(
        take(trained, form, images, trace=trace, output=FORMS[form]), tmp_path / "m.safetensors"
    )
    model = models.load(tmp_path / "m.safetensors")
    batch = Extractor(model, "penultimate", None, CPU).whole(images, 7)
    assert batch.logits == pytest.approx(expected, abs=0.02 if form == "half" else 1e-5)
    assert batch.features.shape == (60, 32)
    assert (adversarial.predict(model, images, CPU, 7) == expected.argmax(1)).all()
    right = np.flatnonzero(expected.argmax(1) == truth)[:10]
    arguments = {"eps": 0.3, "eps_iter": 0.05, "nb_iter": 5}
    made = adversarial.run(
        model, images[right], truth[right], "LinfPGDAttack", "linf", arguments, 0, CPU, 10
    )
    assert made.success.all()


@pytest.mark.parametrize(
    ("form", "output", "words"),
    [
        (
            "two",
            None,
            (
                r"returns a tuple of 0: tensor \(8, 10\), 1: tensor \(8, 10\), more than one of"
                r" them with 10 num"
            ),
        ),
        (
            "two_named",
            None,
            (
                "main: tensor .*more than one .*the key output says which are the logits, by name"
                " or by place"
            ),
        ),
        (
            "wide",
            None,
            r"tuple of 0: tensor \(8, 32\), 1: tensor \(8, 32\), none of them with 10 numbers",
        ),
        ("text", None, "the network returns a str, none of them"),
        ("nothing", None, "the network returns a NoneType"),
        (
            "dict",
            "logit",
            "mine.output is 'logit', expected one of what the network returns: features, logits",
        ),
        ("logits_features", 2, "mine.output is 2, expected one of what the network returns: 0, 1"),
        ("tensor", 0, "mine.output is 0, expected one of what the network returns: null"),
        ("nested", 1, "the logits must be a tensor"),
        ("dict", "features", r"logits of an image is \(32,\), expected \(10,\)"),
    ],
)
def test_outputs_of_which_none_is_the_logits_are_listed(
    form, output, words: str, trained, digits
) -> None:
    with pytest.raises((ArgumentError, InputError), match=words) as caught:
        take(trained, form, digits[0][:20], output=output)
    assert "\n" not in str(caught.value)


class Parts(nn.Module):
    """What archives of users return."""

    def __init__(self, net: Any, form: str) -> None:
        super().__init__()
        self.hidden, self.head, self.form = net.hidden, net.head, form

    def forward(self, x: Tensor) -> Any:
        if self.form == "flat":
            x = (4 * x).round() / 4
        z = self.hidden(x.flatten(1)).relu()
        y = self.head(z)
        if self.form == "dict":
            return {"early_1": x, "logits": y, "features": z}
        return {
            "swapped": (y, z),
            "order": (z, y, x),
            "single": (z, (y[:, 1:] - y[:, :1])),
            "same": (y, y),
        }[self.form]


@pytest.mark.parametrize("form", ["order", "swapped", "dict", "single", "same"])
def test_archives_may_return_logits_first_or_a_dict(form, trained, code, digits, tmp_path) -> None:
    classes = 2 if form == "single" else 10
    net = code.make(classes)
    external.load_weights(net, trained[classes])
    images = digits[0][1000:1020]
    x = (torch.as_tensor(images).float() / 255 - 0.3) / 0.35
    many = {"x": {0: torch.export.Dim("n")}}
    program = torch.export.export(Parts(net, form).eval(), (x[:4],), dynamic_shapes=many)
    torch.export.save(program, tmp_path / "p.pt2")
    base = {"source": "torch_export", "path": str(tmp_path / "p.pt2"), **INPUT}
    document = yaml.safe_load(SMOKE) | {"classifiers": {"mine": base}}
    values = params.parse(yaml.safe_dump(document)).classifiers["mine"].model_dump()
    external.save(
        validate_external.take(values, "classifiers.mine", images, classes, CPU),
        tmp_path / "m.safetensors",
    )
    batch = Extractor(models.load(tmp_path / "m.safetensors"), "penultimate", None, CPU).whole(
        images, 6
    )
    y = net(x).detach().numpy()
    assert batch.logits - batch.logits[:, :1] == pytest.approx(y - y[:, :1], abs=1e-4)
    z = y if form == "same" else net.hidden(x.flatten(1)).relu().detach().numpy()
    assert batch.features == pytest.approx(z, abs=1e-5)
    assert [part.shape[1] for part in batch.early] == (
        [2] if form in ("order", "dict") else [z.shape[1]]
    )


# one logit, probabilities, logarithms


@pytest.mark.parametrize("form", ["column", "row", "column_and_features"])
def test_one_logit_becomes_two_columns(form: str, trained, digits) -> None:
    images, truth = digits[0][1000:1100], (digits[1][1000:1100] >= 5).astype(int)
    model, both = take(trained, form, images, classes=2), take(trained, "tensor", images, classes=2)
    batch, expected = (
        Extractor(m, "penultimate", None, CPU).whole(images, 30).logits for m in (model, both)
    )
    assert batch.shape == (100, 2)
    assert (batch[:, 0] == 0).all()
    assert batch[:, 1] == pytest.approx(expected[:, 1] - expected[:, 0], abs=1e-4)
    said: list[str] = []
    assert (
        validate_external.judge(
            model, "classifiers.mine", images, truth, ["small", "large"], CPU, said.append
        )
        > 0.8
    )
    assert not said
    with pytest.raises(InputError, match="the order large, small it would"):
        validate_external.judge(
            model, "classifiers.mine", images, 1 - truth, ["small", "large"], CPU, said.append
        )


def test_one_logit_for_more_than_two_classes_is_refused(code, digits) -> None:
    values = entry(entrypoint="usernets:make", arguments={"form": "column", "classes": 2})
    with pytest.raises(
        InputError, match=r"logits of an image is \(1,\), expected \(10,\), one for each class"
    ):
        validate_external.take(values, "classifiers.mine", digits[0][:20], 10, CPU)


@pytest.mark.parametrize(
    ("form", "classes", "words"),
    [
        (
            "softmax",
            10,
            (
                "on val: all rows of logits are non-negative and sum to 1: .*give logits, the"
                " values before the"
            ),
        ),
        ("half_softmax", 10, "sum to 1: these are probabilities; give logits"),
        ("softmax", 2, "sum to 1: these are probabilities"),
        ("sigmoid", 2, r"one logit lies in \[0, 1\] in all 200 rows, .* give log\(p / \(1 - p\)\)"),
        ("nan", 10, r"on val: row 99 is NaN or infinite, expected finite numbers"),
    ],
)
def test_networks_that_end_in_probabilities_are_refused(
    form, classes, words: str, trained, digits
) -> None:
    images, truth = digits[0][1000:1200], digits[1][1000:1200]
    if form == "nan":  # beyond the first images, which are looked at one by one
        images = np.r_[images[:99], np.full((1, 1, 8, 8), 255, np.uint8), images[100:]]
    model, names = take(trained, form, images, classes=classes), list("0123456789")[:classes]
    with pytest.raises(InputError, match=words):
        validate_external.judge(
            model, "classifiers.mine", images, truth % classes, names, CPU, print
        )


def test_sigmoids_that_do_not_sum_to_1_are_warned_of(trained, digits) -> None:
    said: list[str] = []
    model = take(trained, "sigmoids", digits[0][1000:1200])
    validate_external.judge(
        model,
        "mine",
        digits[0][1000:1200],
        digits[1][1000:1200],
        list("0123456789"),
        CPU,
        said.append,
    )
    assert len(said) == 1
    assert "all logits lie in [0, 1]; if these are probabilities of a sigmoid" in said[0]


def test_log_probabilities_of_a_network_are_welcome_also_where_they_are_minus_infinity(
    trained, digits
) -> None:
    images, truth, said = digits[0][1000:1200], digits[1][1000:1200], []
    model = take(trained, "log", images)
    assert (
        validate_external.judge(model, "mine", images, truth, list("0123456789"), CPU, said.append)
        > 0.8
    )
    assert "mine, on val: -inf in " in said[0]
    batch = Extractor(model, "penultimate", None, CPU).whole(images, 50)
    assert np.isfinite(batch.logits).all()
    plain = model.plain(torch.as_tensor(images).float() / 255).numpy()
    assert softmax(batch.logits) == pytest.approx(np.exp(plain), abs=1e-3)


def as_npz(path: Path, **values: np.ndarray) -> Path:
    np.savez(path, **values)
    return path


def rows(
    rng: np.random.Generator, k: int = 4, n: int = 200, accuracy: float = 0.9
) -> dict[str, np.ndarray]:
    labels = rng.integers(0, k, n)
    shown = np.where(rng.random(n) < accuracy, labels, rng.integers(0, k, n))
    scores = rng.normal(size=(n, k)) + 6 * np.eye(k)[shown]
    return {"features": rng.normal(size=(n, 5)), "logits": scores, "labels": labels}


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def read(path: Path, **values: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    said: list[str] = []
    return (
        feature_files.read({"train": as_npz(path / "a.npz", **values)}, {}, None, said.append)[0][
            "train"
        ],
        said,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            softmax,
            (
                "a.npz: logits: all rows of logits are non-negative and sum to 1: these are"
                " probabilities; give log"
            ),
        ),
        (lambda s: softmax(s).astype(np.float16), "sum to 1: these are probabilities"),
        (lambda s: softmax(s).round(3), "these are probabilities"),
        (lambda s: 100 * softmax(s), "sum to 100: these are probabilities"),
        (lambda s: np.eye(4)[s.argmax(1)], "sum to 1: these are probabilities"),  # hard answers
        (lambda s: np.where(s > 3, np.inf, s), r"a.npz: logits: row \d+ is NaN or infinite"),
        (lambda s: np.where(s > 6, np.nan, s), r"a.npz: logits: row \d+ is NaN or infinite"),
        (lambda s: np.full_like(s, -np.inf), "a.npz: logits: row 0 is NaN or infinite"),
    ],
)
def test_files_of_probabilities_are_refused(change: Any, words: str, tmp_path: Path, rng) -> None:
    values = rows(rng)
    with pytest.raises(InputError, match=words):
        read(tmp_path, **values | {"logits": change(values["logits"])})


def test_log_probabilities_and_half_precision_in_files_are_welcome(tmp_path: Path, rng) -> None:
    values = rows(rng)
    with np.errstate(divide="ignore"):
        log = np.log(softmax(values["logits"]).round(3))
    assert np.isinf(log).any()
    found, said = read(tmp_path, **values | {"logits": log})
    rows_with = np.isinf(log).any(1).sum()
    assert (
        f"a.npz: logits: -inf in {rows_with} of 200 rows, the logarithm of a probability of 0, is"
        " taken as" in said[0]
    )
    assert np.isfinite(found["logits"]).all()
    assert softmax(found["logits"]) == pytest.approx(softmax(log), abs=1e-6)
    assert (
        found["logits"][np.isinf(log)] <= log.max(1)[np.isinf(log).nonzero()[0]] - 104 + 1e-3
    ).all()
    found, said = read(tmp_path, **values | {"logits": values["logits"].astype(np.float16)})
    assert found["logits"].dtype == np.float32
    assert not said
    found, said = read(tmp_path, **values | {"logits": 1 / (1 + np.exp(-values["logits"]))})
    assert "all logits lie in [0, 1]" in said[0]
    deep, _ = logits.checked(np.array([[0.0, -500.0, -np.inf], [-np.inf, 0.0, 1.0]]), "x")
    assert deep.tolist() == [[0, -500, -500], [-103, 0, 1]]  # below all others of its row


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
def test_files_of_one_logit_are_two_columns(shape: tuple[int, ...], tmp_path: Path, rng) -> None:
    values = rows(rng, k=2)
    one = values["logits"][:, 1] - values["logits"][:, 0]
    found, said = read(tmp_path, **values | {"logits": one.reshape(shape)})
    assert found["logits"].dtype == np.float32
    assert found["logits"] == pytest.approx(np.stack([np.zeros(200), one], axis=1), abs=1e-6)
    assert not said
    with pytest.raises(
        InputError,
        match=r"one logit lies in \[0, 1\] in all 200 rows, so it is a probability p; give log",
    ):
        read(tmp_path, **values | {"logits": 1 / (1 + np.exp(-one.reshape(shape)))})
    with pytest.raises(InputError, match="labels are -1 and 1, expected 0 and 1, the two classes"):
        read(
            tmp_path, **values | {"logits": one.reshape(shape), "labels": 2 * values["labels"] - 1}
        )


def test_tables_of_one_logit(tmp_path: Path, rng) -> None:
    import pandas as pd

    values = rows(rng, k=2)
    odds = values["logits"][:, 1] - values["logits"][:, 0]
    found, said = read(tmp_path, **values | {"logits": np.where(odds > 6, np.inf, odds)})
    assert found["logits"].max() == 104
    assert "-inf in" in said[0]
    for column in ("logits", "logits_0"):
        table = {
            column: values["logits"][:, 1] - values["logits"][:, 0],
            "labels": values["labels"],
        }
        pd.DataFrame(
            table | {f"features_{i}": values["features"][:, i] for i in range(5)}
        ).to_parquet(tmp_path / "t.parquet")
        found = feature_files.read({"train": tmp_path / "t.parquet"}, {}, None)[0]["train"]
        assert found["logits"].shape == (200, 2)


def test_a_guard_for_outputs_takes_one_logit_and_refuses_probabilities(rng) -> None:
    values = rows(rng, k=2, n=300)
    z, odds = values["features"].astype(np.float32), values["logits"][:, 1] - values["logits"][:, 0]
    both, _ = logits.checked(odds, "x")
    settings = density.Optimisation(2, 2, 64, 1e-3, 5.0, 0)
    nothing = lambda *_, **__: None  # noqa: E731
    flow = density.fit(z, z, "maf", "raw", 5, 1, 8, settings, CPU, nothing).density.requires_grad_(
        False
    )
    log_density = density.evaluate(flow.log_prob, z)
    reference = ((), both, log_density)
    fitted = guard.fit(
        (), both, reference, guard.Settings(0, dict.fromkeys(guard.PARTS, 0.2), 8, 1, 64, 0.01)
    )
    form = guard_model.Form(["no", "yes"], None, None, "penultimate", None, 100, 0.1, "correct")
    deployed = guard_model.Deployed(form, None, flow, fitted, fitted.score((), both, log_density))
    expected = deployed.predict({"features": z, "logits": both})
    for one in (odds, odds[:, None]):
        assert deployed.predict({"features": z, "logits": one}).equals(expected)
    assert list(expected["prediction"]) == ["yes" if odd > 0 else "no" for odd in odds]
    sure = deployed.predict({"features": z[:1], "logits": [[-np.inf, 0.0]]})
    assert sure["confidence"][0] == 1
    with pytest.raises(
        InputError, match="guard: logits: all rows of logits are non-negative and sum to 1"
    ):
        deployed.predict({"features": z, "logits": softmax(both)})
    with pytest.raises(InputError, match=r"guard: logits is .*expected finite numbers \(n, 2\)"):
        deployed.predict({"features": z, "logits": np.zeros((300, 3))})


# labels in another order than the logits


@pytest.mark.parametrize(
    ("k", "change", "words"),
    [
        (
            4,
            lambda y: y + 1,
            "a.npz: labels count from 1 to 4, but columns of logits from 0 to 3: subtract 1",
        ),
        (
            4,
            lambda y: np.where(y == 2, 9, y),
            r"a.npz: label of row \d+ is 9, expected 0 to 3, a column of logits",
        ),
        (
            2,
            lambda y: y + 1,
            "labels count from 1 to 2, but columns of logits from 0 to 1: subtract 1",
        ),
        (
            4,
            lambda y: np.array([3, 0, 1, 2])[y],
            r"in the order 3, 0, 1, 2 it would be 9\d.\d %: labels in the order of the log",
        ),
        (
            2,
            lambda y: 1 - y,
            (
                "accuracy is .*in the order 1, 0 it would be .*classes are 0, 1; labels count the"
                " columns"
            ),
        ),
        (
            12,
            lambda y: np.argsort(sorted(range(1, 13), key=str))[y],
            r"labels in the order of the logits\? classes are 0, 1",
        ),
    ],
)
def test_labels_of_files_in_another_order_are_refused(
    k, change, words: str, tmp_path: Path, rng
) -> None:
    values = rows(rng, k, n=400)
    read(tmp_path, **values)
    with pytest.raises(InputError, match=words):
        read(tmp_path, **values | {"labels": change(values["labels"])})


def predictions(rng, k: int, n: int, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, k, n)
    return np.where(rng.random(n) < accuracy, labels, rng.integers(0, k, n)), labels


NAMES = sorted(map(str, range(1, 13)))  # as folders are sorted: 1, 10, 11, 12, 2, ...


@pytest.mark.parametrize("n", [60, 150, 1000])
def test_folders_1_to_12_and_a_network_trained_in_natural_order(n: int, rng) -> None:
    predicted, natural = predictions(rng, 12, n, 0.97)
    labels = np.argsort(
        np.argsort(np.array([int(name) for name in NAMES]))
    )  # of the folder i its natural number
    labels = np.argsort(labels)[natural]
    assert (predicted == labels).mean() < 0.2
    order = ", ".join(map(str, range(1, 13)))
    words = (
        rf"in the order {order} it would be 9\d.\d %: labels in the order of the logits\? classes"
        r" are 1, 10, 11, 12, 2"
    )
    with pytest.raises(InputError, match=words) as caught:
        agreement.check(
            predicted, labels, NAMES, "classifiers.mine, on val", "raw.classes: [...] states it"
        )
    assert "raw.classes: [...]" in str(caught.value)


@pytest.mark.parametrize(("k", "n"), [(12, 150), (10, 60), (2, 1000), (3, 1000)])
def test_labels_that_predictions_know_nothing_of_are_refused(k: int, n: int, rng) -> None:
    predicted, labels = predictions(rng, k, n, 0.0)
    labels = labels[np.argsort((predicted == labels) & (np.arange(n) % 2 == 0))]
    with pytest.raises(
        InputError, match=rf"of {n} inputs are classified correctly .*guessing would give"
    ):
        agreement.check(rng.permutation(predicted), labels, list(map(str, range(k))), "x", "")


def test_one_answer_for_everything_and_none_that_is_right_are_refused(rng) -> None:
    labels, names = rng.integers(0, 5, 200), list("abcde")
    with pytest.raises(
        InputError, match="guessing would give .* .every prediction is d.: labels in the order"
    ):
        agreement.check(np.full(200, 3), labels, names, "x", "")
    with pytest.raises(InputError, match="0 of 3 inputs are classified correctly"):
        agreement.check(np.array([0, 1, 2]), np.array([1, 2, 0]), names, "x", "")


def test_weak_classifiers_and_few_inputs_are_not_refused_wrongly() -> None:
    """Of classifiers that are right in a third to a half of the cases, and of tiny validation sets,
    hardly one.
    """
    rng, refusals, exchanged = np.random.default_rng(0), 0, 0
    for _ in range(400):
        k = int(rng.choice([2, 5, 10]))
        predicted, labels = predictions(
            rng, k, int(rng.choice([8, 20, 60, 400])), 0.5 if k == 2 else 0.35
        )
        if not (predicted == labels).any():
            continue
        try:
            exchanged += any(
                "exchanged" in said
                for said in agreement.check(predicted, labels, list("abcdefghij")[:k], "x", "")
            )
        except InputError:
            refusals += 1
    assert refusals <= 4
    assert exchanged <= 1
    rare = np.r_[
        np.zeros(95, int), np.ones(5, int)
    ]  # nearly all of one class: that is no question of the order
    (said,) = agreement.check(np.zeros(100, int), rare, ["good", "bad"], "x", "")
    assert (
        "95 of 100 inputs are classified correctly (95.0 %), guessing would give 95.0 % (every"
        " prediction is good)" in said
    )


def test_two_classes_exchanged_are_warned_of(rng) -> None:
    predicted, labels = predictions(rng, 10, 500, 0.95)
    swapped = np.arange(10)
    swapped[[3, 7]] = [7, 3]
    (said,) = agreement.check(
        predicted, swapped[labels], list("abcdefghij"), "classifiers.mine", "remedy"
    )
    assert (
        "if the classes h, d were exchanged" in said or "if the classes d, h were exchanged" in said
    )
    assert not agreement.check(predicted, labels, list("abcdefghij"), "classifiers.mine", "remedy")


# tokens


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 3, 32, 32), np.uint8)


COLOUR = {"mean": [0.5] * 3, "std": [0.5] * 3, "channels": 3, "size": None}


def take_picture(function: str, layer: str, **more: Any) -> external.Custom:
    values = entry(entrypoint=f"usernets:{function}", layer=layer, **COLOUR | more)
    torch.manual_seed(0)
    return validate_external.take(values, "classifiers.mine", pictures(), 10, CPU)


def output_of(model: external.Custom, layer: str) -> np.ndarray:
    found: list[Tensor] = []
    hook = model.net.get_submodule(layer).register_forward_hook(
        lambda _m, _i, out: found.append(out)
    )
    model(torch.as_tensor(pictures()).float() / 255)
    hook.remove()
    return found[0].detach().numpy()


@pytest.mark.parametrize(
    ("function", "layer", "tokens", "expected"),
    [
        ("tv", "encoder.ln", None, lambda z: z[:, 0]),
        ("tv", "encoder.ln", "mean", lambda z: z.mean(1)),
        ("tv", "encoder.layers.encoder_layer_1.mlp", "class", lambda z: z[:, 0]),
        ("tv", "conv_proj", None, lambda z: z.mean((2, 3))),
        ("timm_vit", "norm", None, lambda z: z[:, 0]),
        ("timm_without_class_token", "norm", None, lambda z: z.mean(1)),
        ("swin", "norm", None, lambda z: z.mean((1, 2))),
        ("swin", "norm", "mean", lambda z: z.mean((1, 2))),
        ("swin", "permute", None, lambda z: z.mean((2, 3))),
        ("timm_swin", "norm", None, lambda z: z.mean((1, 2))),
        ("convnext", "features.0", None, lambda z: z.mean((2, 3))),
        ("encoder", "encoder", None, lambda z: z.mean(1)),
        ("sound", "conv", None, lambda z: z.mean(2)),
    ],
)
def test_tokens_and_maps_are_told_from_each_other(
    function, layer, tokens, expected, tmp_path: Path
) -> None:
    if function.startswith("timm"):
        pytest.importorskip("timm")
    model = take_picture(function, layer, tokens=tokens)
    external.save(model, tmp_path / "m.safetensors")
    batch = Extractor(models.load(tmp_path / "m.safetensors"), "penultimate", None, CPU).whole(
        pictures(), 4
    )
    z = output_of(model, layer)
    assert batch.features == pytest.approx(expected(z), abs=1e-5)
    if (
        tokens is None and z.ndim > 2 and function != "sound"
    ):  # early features: mean and deviation of each channel
        assert batch.early[0].shape == (9, 2 * expected(z).shape[1])


def test_early_features_of_tokens_and_a_layer_of_stage_features() -> None:
    model = take_picture("tv", "encoder.ln", early=["conv_proj", "encoder.layers.encoder_layer_0"])
    batch = Extractor(model, "penultimate", None, CPU).whole(pictures(), 9)
    z = output_of(model, "encoder.layers.encoder_layer_0")
    assert [part.shape for part in batch.early] == [(9, 48), (9, 48)]
    assert batch.early[1] == pytest.approx(np.c_[z.mean(1), z.std(1)], abs=1e-4)
    other = Extractor(model, "net.encoder.layers.encoder_layer_0", [], CPU).whole(pictures(), 9)
    assert other.features == pytest.approx(z[:, 0], abs=1e-5)


def test_layers_inside_of_torch_s_transformer_are_seen_by_hooks() -> None:
    """They are passed by where torch takes its fast path, which it does without gradients."""
    model = take_picture("encoder", "encoder.layers.0.norm2", arguments={"follow": False})
    batch = Extractor(model, "penultimate", None, CPU).whole(pictures(), 9)
    assert batch.features == pytest.approx(
        output_of(model, "encoder.layers.0.norm2").mean(1), abs=1e-5
    )


def test_layers_of_which_nothing_shows_the_channels_are_one_line() -> None:
    words = (
        "layer: relu gives 48 x 64 numbers for an image, .* by the key tokens, class .the first of"
        " 48 tokens., mean"
    )
    with pytest.raises((ArgumentError, InputError), match=words) as caught:
        take_picture("bare", "relu")
    assert "\n" not in str(caught.value)
    x = torch.as_tensor(pictures()).float() / 255
    parts = ((x - 0.5) / 0.5).reshape(9, 48, 64).relu().numpy()
    for tokens, expected in (
        ("class", parts[:, 0]),
        ("mean", parts.mean(1)),
        ("maps", parts.mean(2)),
    ):
        model = take_picture("bare", "relu", tokens=tokens)
        found = Extractor(model, "penultimate", None, CPU).whole(pictures(), 9).features
        assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(
        (ArgumentError, InputError),
        match=r"mine.tokens is 'class', expected mean or null: the layer gives \(8, 8, 24\)",
    ):
        take_picture("swin", "norm", tokens="class")
    with pytest.raises(
        (ArgumentError, InputError),
        match=r"output of net.norm is \(8, 8, 12\), expected a tensor with a row per image",
    ):
        take_picture("tokens_first", "norm")  # 8 tokens of 8 images
    with pytest.raises(
        (ArgumentError, InputError),
        match="layer: x gives a tuple; a tensor with a row for each image is needed",
    ):
        layers.channels_first((x, x), "net.x", layers.MAPS)
    with pytest.raises((ArgumentError, InputError), match="classifiers.mine.tokens is 'first'"):
        entry(entrypoint="a:b", tokens="first")


# in the stages


def stage_raw(folder: Path, values: dict[str, np.ndarray], **changed: Any) -> Any:
    as_npz(folder / "a.npz", **values)
    document = yaml.safe_load(SMOKE)
    document["raw"] = {
        "dataset": "features",
        "parts": {"train": "a.npz"},
        "ood": {},
        "classes": None,
    } | changed
    document["classifiers"], document["images"] = (
        {"given": {"source": "features"}},
        document["images"] | {"test": 100},
    )
    document["images"] |= {"val": 100, "cal": 100}
    document["ood"]["sets"] = []
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    return run(folder, "raw", "data/raw")


@pytest.mark.slow
def test_stages_refuse_features_in_another_order_and_tell_what_is_odd(tmp_path: Path, rng) -> None:
    values = rows(rng, 6, n=600)
    refused(
        stage_raw(tmp_path, values | {"labels": 5 - values["labels"]}),
        "labels in the order of the logits? classes",
    )
    with np.errstate(divide="ignore"):
        log = np.log(softmax(values["logits"]).round(3))
    done = stage_raw(
        tmp_path,
        values | {"logits": log, "labels": rng.permutation(values["labels"])},
        classes=list("abcdef"),
    )
    assert done.returncode == 0, done.stderr
    assert run(tmp_path, "images", "data/raw", "data/images").returncode == 0
    (said,) = json.loads((tmp_path / "data/images/warnings.json").read_text())
    assert "-inf in" in said
    paths = ("data/images/fit", "data/images/val", "data/images/classes.json")
    done = run(tmp_path, "classifier", *paths, "data/classifier/given")
    refused(
        done,
        "inputs are classified correctly",
        "guessing would give",
        "labels in the order of the logits? classes are a, b, c",
    )
    assert not (tmp_path / "data/classifier/given").exists()


def attacked(
    model: external.Custom, digits: Any, folder: Path, **attacks_: Any
) -> tuple[dict[str, float], list[str]]:
    """Return metrics and warnings of stage adversarial, which writes to folder/out."""
    document = yaml.safe_load(SMOKE)
    section = document["adversarial"]
    section["attacks"] = attacks_ or {
        name: section["attacks"][name] for name in ("fgsm_05", "pgd_02", "pgd_05", "ddn")
    }
    external.save(model, folder / "model.safetensors")
    save_arrays(folder / "test", images=digits[0][1000:1400], labels=digits[1][1000:1400])
    known = Run("adversarial", "mine", params.parse(yaml.safe_dump(document)), journaled=False)
    (folder / "out").mkdir()
    found = stages.adversarial.main.__wrapped__(
        known, folder / "test", folder / "model.safetensors", folder / "out"
    )
    return found, known.warnings


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
    assert plain["sanity.zero_gradients"] == 0
    assert not said
    found, said = attacked(take(sure, "logits_features", digits[0][:20]), digits, tmp_path / "sure")
    assert found["sanity.zero_gradients"] > 0.5
    assert "the cross-entropy has a gradient of exactly zero at" in said[0]
    for attack in ("pgd_02", "pgd_05", "ddn"):
        assert found[f"{attack}.succeeded"] >= 0.9 * plain[f"{attack}.succeeded"] > 0


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
    assert found["weak.succeeded"] == 0
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
    assert found["weak.succeeded"] == 0 < found["strong.succeeded"]
    assert "attacks.weak is success 0.000 at eps 0.3" in said[1]
    assert "a classifier that is so sure can hide" in said[1]
