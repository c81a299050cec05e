"""Layers: tokens, maps, and what hooks see."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import SMOKE
from torch import Tensor

from mistakes.config import params
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, layers, models, validate_external
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
