"""Custom classifiers: networks that were trained elsewhere, behind the same door as those that are
trained here.

A network of Python code (``entrypoint``, ``torchvision``, ``timm``) is built anew wherever it is
loaded; its file holds the weights and how to build it. An archive (``torchscript``,
``torch_export``) is its own file, kept as the bytes that it has. No Python pickle is executed:
weights are safetensors, TorchScript has an unpickler of its own that knows no Python, and
torch.export is held to ``weights_only``. But code, TorchScript and exported programs are programs.
"""

import importlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistakes.artifacts import save_tensors
from mistakes.data.logits import GONE
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import programs
from mistakes.networks.arguments import WEIGHTS

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
# a member that only this kind has
ARCHIVES = {
    "torchscript": "constants.pkl",
    "torch_export": "archive_format",
}
# sources that are code of others, which runs when a network is rebuilt
PROGRAMS = (
    "entrypoint",
    *ARCHIVES,
)
FORM = (
    "(features, logits) or (features, logits, early_1, early_2, ...), tensors with a row per image,"
    " or a dict of these names"
)
Description = Mapping[str, Any]


def pick(found: Any, output: int | str | None) -> Any:
    """Return the part ``output`` (a place, a key or an attribute) of what a network returned; None:
    all of it.

    Examples
    --------
    >>> pick({"logits": 1, "features": 2}, "logits")
    1
    """
    if output is None:
        return found
    return (
        found[output]
        if isinstance(output, int) or isinstance(found, Mapping)
        else getattr(found, output)
    )


def whole(logits: Tensor, single: bool) -> Tensor:
    """Return logits as float32 (n, k), finite where they are numbers or -inf.

    single : they are those of the second of two classes, (n,) or (n, 1), and become two columns (0,
    logit). The logarithm of a probability of 0 becomes a number whose softmax is 0 too, and below
    all others of its row.
    """
    if single:
        logits = logits.reshape(-1, 1).nan_to_num(nan=torch.nan, posinf=GONE, neginf=-GONE)
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    logits = logits.float()
    gone = logits == -torch.inf
    lowest = logits.masked_fill(gone, torch.inf).amin(1, keepdim=True)
    floor = torch.minimum(lowest, logits.amax(1, keepdim=True) - GONE).detach()
    return torch.where(gone, floor, logits)


class Custom(nn.Module):
    """A network with its input inside: images float32 (n, c, h, w) in [0, 1] to logits float32 (n,
    k).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, description: Description) -> None:
        """``description``: mean, std, size and colour (grey images become three equal channels),
        layer and early.

        output : which part of what the network returns is the logits, as ``pick`` takes it; absent
        or None: all of it. single : whether there is one logit for two classes.
        """
        super().__init__()
        self.description = dict(description)
        self.classes = description["classes"]
        self.register_buffer("mean", torch.tensor(description["mean"]).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(description["std"]).reshape(1, -1, 1, 1))
        self.net = net
        # a name for the last layer, whatever the network returns, and in whatever order
        self.logits = nn.Identity()
        self.penultimate, self.blocks = self._layers()

    def _layers(self) -> tuple[str, tuple[str, ...]]:
        layer = f"net.{self.description['layer']}"
        return layer, tuple(f"net.{name}" for name in self.description["early"]) or (layer,)

    def prepared(self, x: Tensor) -> Tensor:
        """Return images (n, c, h, w) in [0, 1] as the network was trained to see them;
        differentiable.
        """
        if self.description["colour"]:
            x = x.expand(-1, 3, -1, -1)
        if self.description["size"] is not None:
            size = (self.description["size"], self.description["size"])
            x = functional.interpolate(
                x, size, mode="bilinear", align_corners=False, antialias=True
            )
        return ((x - self.mean) / self.std).contiguous()

    def returned(self, x: Tensor) -> Any:
        """Return what the network itself makes of images (n, c, h, w) in [0, 1]."""
        return self.net(self.prepared(x))

    def plain(self, x: Tensor) -> Tensor:
        """Return the logits as the network gives them."""
        return pick(self.returned(x), self.description.get("output"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, as ``whole`` makes them."""
        return self.logits(whole(self.plain(x), self.description.get("single", False)))


class Archive(Custom):
    """The same for a network without layers to cut at: it returns the features itself."""

    def __init__(self, content: bytes, description: Description) -> None:
        """``content`` is a TorchScript or torch.export file; ``description`` has ``source``."""
        super().__init__(nn.Identity(), description)
        self.content = content
        # no part of this module: it has one mode only
        self._program = (_open(content, description["source"]),)
        # an exported program cannot leave the CPU
        self._stays = description["source"] == "torch_export"

    def _layers(self) -> tuple[str, tuple[str, ...]]:
        # features, logits, early_1, ...
        self.order = self.description.get("order") or range(self.description["parts"])
        early = tuple(f"early_{i + 1}" for i in range(len(self.order) - 2))
        self.outputs = ("features", *early, "logits")
        return "features", early or ("features",)

    def named(self, x: Tensor) -> dict[str, Tensor]:
        """Return what the network returns under the names of ``outputs``."""
        features, logits, *early = self.parts(x)
        logits = whole(logits, self.description.get("single", False))
        return dict(zip(self.outputs, (features, *early, logits), strict=True))

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return features, logits and early features as the network gives them."""
        found = self.returned(x)
        return tuple(pick(found, key).to(x.device) for key in self.order)

    def returned(self, x: Tensor) -> Any:
        """Return what the program returns."""
        (program,) = self._program
        return (
            program(self.prepared(x).cpu())
            if self._stays
            else program.to(x.device)(self.prepared(x))
        )

    def plain(self, x: Tensor) -> Tensor:
        """Return the logits as the network gives them."""
        return self.parts(x)[1]


def build(description: Description) -> nn.Module:
    """Return the network of code that ``source`` names, in evaluation mode.

    Raises ArgumentError where there is none.
    """
    source, arguments = description["source"], description["arguments"]
    if source == "entrypoint":
        key, name = "entrypoint", description["entrypoint"]
        function = _function(name)
    else:
        key, name, function = "name", description["name"], _library(source)
        # whatever a file says: nothing is fetched or unpickled
        arguments = {k: v for k, v in arguments.items() if k not in WEIGHTS}
        arguments |= {"weights": None} if source == "torchvision" else {"pretrained": False}
        arguments = {"name" if source == "torchvision" else "model_name": name} | arguments
    try:
        net = function(**arguments)
    except Exception as error:  # code of others
        raise ArgumentError(
            key, f"{name} ({_reason(error)})", "a function that builds a network"
        ) from None
    if not isinstance(net, nn.Module):
        raise ArgumentError(
            key, f"{name} ({type(net).__name__})", "a function that returns an nn.Module"
        )
    # else torch's transformer layers, where no gradient is wanted, pass their own submodules by,
    # which may be ``layer``
    torch.backends.mha.set_fastpath_enabled(False)
    return net.eval().requires_grad_(False)


def _function(entrypoint: str) -> Any:
    module, _, name = entrypoint.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the module's own code runs
        expected = "package.module:function, importable from the project's folder"
        raise ArgumentError("entrypoint", f"{entrypoint} ({_reason(error)})", expected) from None


def _library(source: str) -> Any:
    if source == "torchvision":
        from torchvision.models import get_model

        return get_model
    try:
        import timm
    except ImportError:
        raise ArgumentError("source", source, "timm installed: pip install -e '.[timm]'") from None
    return timm.create_model


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a safetensors file into ``net``. Raises InputError where it is none, or does not fit."""
    from safetensors.torch import load_file

    if path.suffix in PICKLES:
        convert = (
            f"safetensors.torch.save_file(torch.load('{path.name}', weights_only=True),"
            " 'weights.safetensors')"
        )
        raise InputError(
            path, "weights", "a pickle", f"safetensors, since a pickle can run code: {convert}"
        )
    try:
        tensors = load_file(path)
    except Exception as error:
        raise InputError(
            path, "weights", f"unreadable ({_reason(error)})", "a safetensors file"
        ) from None
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise InputError(path, "weights", " ".join(lines)[:300], "those of this network") from None


def read_archive(path: Path, source: str) -> bytes:
    """Return the bytes of a TorchScript or torch.export file. Raises InputError where it is
    neither.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as file:
            members = {Path(name).name for name in file.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            path, "file", f"unreadable ({_reason(error)})", f"a {source} archive"
        ) from None
    if ARCHIVES[source] not in members:
        expected = (
            f"a {source} archive (pickled weights cannot be used: source entrypoint takes"
            " safetensors)"
        )
        raise InputError(path, "file", "another kind of zip", expected)
    return path.read_bytes()


def _open(content: bytes, source: str) -> Any:
    try:
        if source == "torchscript":
            program = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
        else:
            with _weights_only():
                program = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:
        raise InputError(
            "own classifier", source, _reason(error), "an archive that this torch can open"
        ) from None
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    return program


@contextmanager
def _weights_only() -> Iterator[None]:
    """Hold torch.load to weights_only: torch.export.load falls back to a full pickle otherwise."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def save(model: Custom, path: Path) -> None:
    """Write one file from which ``rebuild`` makes the same classifier."""
    if isinstance(model, Archive):
        archive = torch.frombuffer(bytearray(model.content), dtype=torch.uint8)
        save_tensors(path, {"archive": archive}, model.description)
    else:
        save_tensors(path, model.net.state_dict(), model.description)


def rebuild(tensors: dict[str, Tensor], description: Description, path: Path) -> Custom:
    """Return what save wrote, in evaluation mode. Raises InputError where the code that builds it
    changed.
    """
    if description["source"] in ARCHIVES:
        return Archive(tensors["archive"].numpy().tobytes(), description).eval()
    if description.get("code") not in (None, programs.key(description.get("entrypoint", ""))):
        changed = (
            f"the code of {description['entrypoint']} is not what the classifier was taken in with"
        )
        raise InputError(path, f"{changed}; mistakes repair && dvc repro takes it in again")
    try:
        net = build(description)
        net.load_state_dict(tensors)
    except ArgumentError as error:
        raise InputError(path, str(error)) from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            path,
            "weights",
            reason,
            "those of the network that its code builds; run stage classifier",
        ) from None
    return Custom(net, description).eval().requires_grad_(False)
