"""Taking in an own classifier: everything that later stages rely on is tried here, on a few images, once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mistakes import layers, own
from mistakes.artifacts import Array
from mistakes.classifier import to_unit
from mistakes.errors import InputError

_TRIED = 4  # images


def take(entry: Mapping[str, Any], where: str, images: Array, classes: int, device: torch.device) -> own.Own:
    """Return the own classifier of an entry of ``classifiers``, checked on images (n, c, h, w), uint8.

    where : the entry's place in params.yaml. Raises InputError where channels, a layer, the outputs, the number of
    classes or a value is not what the pipeline needs, or an answer depends on chance or on the other images.
    """
    description = {key: value for key, value in entry.items() if key not in ("weights", "path", "channels")}
    channels = images.shape[1]
    if entry["channels"] != channels and (channels, entry["channels"]) != (1, 3):
        raise InputError("params.yaml", f"{where}.channels", entry["channels"], f"{channels}, as the images have")
    for key in ("mean", "std"):
        if len(entry[key]) != entry["channels"]:
            raise InputError("params.yaml", f"{where}.{key}", entry[key], f"{entry['channels']} numbers, one a channel")
    description |= {"colour": entry["channels"] != channels, "classes": classes}
    x = to_unit(images[: 2 * _TRIED])
    model = (_archive if entry["source"] in own.ARCHIVES else _code)(entry, where, description, x)
    model = model.to(device)
    _check(model, where, x.to(device))
    return model


def _code(entry: Mapping[str, Any], where: str, description: dict[str, Any], _x: Tensor) -> own.Own:
    net = own.build(description)
    if entry["weights"] is not None:
        own.load_weights(net, Path(entry["weights"]))
    model = own.Own(net, description).eval()
    there = layers.names(model)
    for key, name in [("layer", entry["layer"]), *(("early", name) for name in entry["early"])]:
        if not layers.known(f"net.{name}", there):
            shown = ", ".join(layer.removeprefix("net.") for layer in there if layer.startswith("net."))
            raise InputError("params.yaml", f"{where}.{key}", name, f"one of {shown}")
    return model


def _archive(entry: Mapping[str, Any], _where: str, description: dict[str, Any], x: Tensor) -> own.Own:
    path = Path(entry["path"])
    content = own.read_archive(path, entry["source"])
    model = own.Archive(content, description | {"parts": 2})
    with torch.no_grad():
        found = _answer(model.parts, path, x)
    tensors = found if isinstance(found, tuple | list) else (found,)
    if len(tensors) < 2 or not all(isinstance(part, Tensor) and len(part) == len(x) for part in tensors):
        shown = f"{len(tensors)} tensors" if isinstance(found, tuple | list) else type(found).__name__
        raise InputError(path, "output", shown, f"{own.FORM}, for an archive has no layers to be cut at")
    return own.Archive(content, description | {"parts": len(tensors)}).eval()


def _check(model: own.Own, where: str, x: Tensor) -> None:
    wanted = list(dict.fromkeys([model.penultimate, *model.blocks]))
    last = layers.names(model)[-1]
    run = layers.cut(model, list(dict.fromkeys([*wanted, last])), x.device)
    with torch.no_grad():
        found = _answer(run, where, x)
        alone = _answer(model, where, x[:_TRIED])
    for name in (*wanted, last):
        part = found.get(name)
        if not isinstance(part, Tensor) or part.dim() < 2 or len(part) != len(x):
            shown = f"{tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise InputError(where, f"output of {name}", shown, "a tensor with a row per image")
        if not torch.isfinite(part).all():
            raise InputError(where, f"output of {name}", "NaN or infinite", "finite numbers")
    logits = found[last]
    if logits.shape != (len(x), model.classes):
        shape, expected = tuple(logits.shape[1:]), f"({model.classes},), one for each class of data/images"
        raise InputError(where, "shape of the logits of an image", shape, expected)
    if not torch.allclose(logits[:_TRIED], alone, rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
        expected = "the same in another batch; save it in evaluation mode (dropout, batch normalisation)"
        raise InputError(where, "answer to an image", "another one", expected)


def _answer(run: Any, where: object, x: Tensor) -> Any:
    try:
        return run(x)
    except Exception as error:  # code of others
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        shape = "x".join(map(str, x.shape))
        expected = "an answer (size and channels of the entry; an export has a dynamic number of images)"
        raise InputError(where, f"answer to images {shape}", reason, expected) from None
