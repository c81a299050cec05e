"""Logits in files: one column, probabilities, log-probabilities."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

from mistakes.data import feature_files, logits
from mistakes.detectors import density, guard
from mistakes.errors import InputError
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


@pytest.fixture
def sure(trained, tmp_path: Path) -> dict[int, Path]:
    """Weights whose softmax saturates in float32."""
    weights = load_file(trained[10])
    weights |= {f"head.{key}": 2000 * weights[f"head.{key}"] for key in ("weight", "bias")}
    save_file(weights, tmp_path / "sure.safetensors")
    return {10: tmp_path / "sure.safetensors"}
