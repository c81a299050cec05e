"""The classifier: networks, and the file that rebuilds them."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mistakes.artifacts import Array, load_tensors, save_tensors
from mistakes.data.pixels import to_unit
from mistakes.errors import ArgumentError, InputError


@dataclass(frozen=True)
class Architecture:
    """All that is needed to rebuild a network before its weights are loaded."""

    name: str  # small_cnn, resnet9 or resnet18
    width: int  # channels of the first convolution
    classes: int
    channels: int  # of the images
    height: int  # of the images, pixels
    image_width: int  # of the images, pixels


class Classifier(nn.Module):
    """A network with its normalisation inside: images float32 (n, c, h, w) in [0, 1] to logits
    float32 (n, k).
    """

    mean: Tensor
    std: Tensor
    penultimate: str  # name of the layer whose output is the default feature vector
    blocks: tuple[str, ...]  # names of the layers whose outputs are the default early features

    def __init__(self, architecture: Architecture, mean: Tensor, std: Tensor) -> None:
        """``mean`` and ``std``, float32 (c,), are those of the images that the network is trained
        on.
        """
        super().__init__()
        self.architecture = architecture
        self.classes = architecture.classes
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))
        build, self.penultimate, self.blocks = {
            "small_cnn": (_small_cnn, "net.penultimate", tuple(f"net.block{i}" for i in (1, 2, 3))),
            "resnet9": (_resnet9, "net.flatten", tuple(f"net.layer{i}" for i in (1, 2, 3))),
            "resnet18": (_resnet18, "net.flatten", tuple(f"net.layer{i}" for i in (1, 2, 3))),
        }[architecture.name]
        self.net = build(architecture)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net((x - self.mean) / self.std)


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def _small_cnn(a: Architecture) -> nn.Module:
    """Three convolutions and two linear layers; 128 features. Images of 8 pixels or more."""
    w, cells = a.width, (a.height // 8) * (a.image_width // 8)
    layers = [
        ("block1", _block(a.channels, w, 5)),  # (n, w, h/2, b/2)
        ("block2", _block(w, 2 * w, 3)),  # (n, 2w, h/4, b/4)
        ("block3", _block(2 * w, 4 * w, 3)),  # (n, 4w, h/8, b/8)
        ("flatten", nn.Flatten()),
        ("hidden", nn.Linear(4 * w * cells, 128)),
        ("penultimate", nn.ReLU()),  # (n, 128)
        ("logits", nn.Linear(128, a.classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


class _Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _resnet9(a: Architecture) -> nn.Module:
    """A ResNet of nine layers, after David Page's for DAWNBench (2018); 8w features. Images of 8
    pixels or more.
    """
    w = a.width

    def convolution(inputs: int, outputs: int, pool: bool = False) -> list[nn.Module]:
        layers = [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        return layers + [nn.MaxPool2d(2)] * pool

    def residual(channels: int) -> nn.Module:
        return _Residual(*convolution(channels, channels), *convolution(channels, channels))

    layers = [
        ("stem", nn.Sequential(*convolution(a.channels, w))),  # (n, w, h, b)
        # (n, 2w, h/2, b/2)
        (
            "layer1",
            nn.Sequential(*convolution(w, 2 * w, pool=True), residual(2 * w)),
        ),
        ("layer2", nn.Sequential(*convolution(2 * w, 4 * w, pool=True))),  # (n, 4w, h/4, b/4)
        # (n, 8w, h/8, b/8)
        (
            "layer3",
            nn.Sequential(*convolution(4 * w, 8 * w, pool=True), residual(8 * w)),
        ),
        ("pool", nn.AdaptiveMaxPool2d(1)),
        ("flatten", nn.Flatten()),  # (n, 8w)
        ("logits", nn.Linear(8 * w, a.classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def _resnet18(a: Architecture) -> nn.Module:
    """torchvision's ResNet-18 with the stem for small images: a 3x3 convolution, no pooling; 8w
    features.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=a.classes)
    if a.width != 64:
        raise ArgumentError("width", a.width, "64 for resnet18")
    net.conv1 = nn.Conv2d(a.channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def save(model: Classifier, path: Path) -> None:
    """Write weights and architecture to one file."""
    save_tensors(path, model.state_dict(), asdict(model.architecture))


def load(path: Path) -> Classifier:
    """Rebuild what save wrote, in evaluation mode. Raises InputError where the file is corrupt or
    of another kind.
    """
    tensors, description = load_tensors(path)
    try:
        channels = tensors["mean"].numel()
        model = Classifier(Architecture(**description), torch.zeros(channels), torch.ones(channels))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            path, "content", str(error).splitlines()[0], "a classifier that stage classifier wrote"
        ) from None
    return model.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(
    model: nn.Module, images: Array, labels: Array, device: torch.device, batch_size: int = 1000
) -> float:
    """Return the share of images (n, c, h, w), uint8, whose prediction is their label."""
    model.eval()
    right = 0
    for start in range(0, len(images), batch_size):
        predicted = model(to_unit(images[start : start + batch_size], device)).argmax(1).cpu()
        right += int(
            (predicted == torch.as_tensor(labels[start : start + batch_size].copy())).sum()
        )
    return right / len(images)


def new(name: str, width: int, classes: int, images: Array, seed: int) -> Classifier:
    """Return an untrained classifier for images (n, c, h, w), uint8, normalised by their mean and
    deviation.
    """
    torch.manual_seed(seed)
    pixels = to_unit(images).transpose(0, 1).flatten(1).double()  # (c, n*h*w)
    mean, std = pixels.mean(1).float(), pixels.std(1).clamp(min=1e-3).float()
    return Classifier(Architecture(name, width, classes, *images.shape[1:]), mean, std)


def describe(model: Classifier) -> dict[str, Any]:
    """Return the architecture as a dictionary."""
    return asdict(model.architecture)
