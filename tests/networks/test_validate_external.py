"""What networks and files of users are like: outputs, tokens, one logit, probabilities, labels in
another order.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import SMOKE
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mistakes.attacks import adversarial
from mistakes.config import params
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, models, validate_external
from mistakes.networks.extraction import Extractor

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


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
