"""Networks as users write them, with outputs of every form."""

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
