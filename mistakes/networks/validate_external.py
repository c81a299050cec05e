"""Taking in an own classifier, or its outputs: everything that later stages rely on is tried here,
once.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mistakes.artifacts import Array, load_arrays, save_tensors, save_text
from mistakes.data import agreement, precomputed
from mistakes.data import logits as forms
from mistakes.data.pixels import to_unit
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import external, layers, programs

_TRIED = 4  # images


def take(
    entry: Mapping[str, Any], where: str, images: Array, classes: int, device: torch.device
) -> external.Custom:
    """Return the own classifier of an entry of ``classifiers``, checked on images (n, c, h, w),
    uint8.

    where : the entry's place in params.yaml. Raises ArgumentError where channels, a layer, the
    outputs, the number of classes or a value is not what the pipeline needs, or an answer depends
    on chance or on the other images.
    """
    description = {
        key: value for key, value in entry.items() if key not in ("weights", "path", "channels")
    }
    channels = images.shape[1]
    if entry["channels"] != channels and (channels, entry["channels"]) != (1, 3):
        raise ArgumentError(
            f"{where}.channels", entry["channels"], f"{channels}, as the images have"
        )
    for key in ("mean", "std"):
        if len(entry[key]) != entry["channels"]:
            raise ArgumentError(
                f"{where}.{key}", entry[key], f"{entry['channels']} numbers, one a channel"
            )
    description |= {"colour": entry["channels"] != channels, "classes": classes}
    x = to_unit(images[: 2 * _TRIED])
    model = (_archive if entry["source"] in external.ARCHIVES else _code)(
        entry, where, description, x
    )
    model = model.to(device)
    _check(model, where, x.to(device))
    return model


def _code(
    entry: Mapping[str, Any], where: str, description: dict[str, Any], x: Tensor
) -> external.Custom:
    if entry["source"] == "entrypoint":  # so that its outputs are others where the code is
        description["code"] = programs.key(entry["entrypoint"])
    net = external.build(description)
    if entry["weights"] is not None:
        external.load_weights(net, Path(entry["weights"]))
    draft = external.Custom(net, description).eval()
    with torch.no_grad():
        found = _answer(draft.returned, where, x)
    description |= _logits(found, entry["output"], where, len(x), description["classes"])
    model = external.Custom(net, description).eval()
    model.description["layout"] = layers.layout(model, x, entry["tokens"])
    there = layers.names(model)
    for key, name in [("layer", entry["layer"]), *(("early", name) for name in entry["early"])]:
        if not layers.known(f"net.{name}", there):
            shown = ", ".join(
                layer.removeprefix("net.") for layer in there if layer.startswith("net.")
            )
            raise ArgumentError(f"{where}.{key}", name, f"one of {shown}")
    return model


def _archive(
    entry: Mapping[str, Any], where: str, description: dict[str, Any], x: Tensor
) -> external.Custom:
    path = Path(entry["path"])
    content = external.read_archive(path, entry["source"])
    draft = external.Archive(content, description | {"parts": 2})
    with torch.no_grad():
        found = _answer(draft.returned, path, x)
    parts = _parts(found)
    if len(parts) < 2 or not all(
        isinstance(part, Tensor) and len(part) == len(x) for part in parts.values()
    ):
        raise InputError(
            path,
            "output",
            _shown(found),
            f"{external.FORM}, for an archive has no layers to be cut at",
        )
    second = (
        1
        if entry["output"] is None
        and 1 in parts
        and _fits(parts[1], len(x), description["classes"])
        else None
    )
    description |= _logits(
        found, entry["output"] if second is None else second, where, len(x), description["classes"]
    )
    logits = description["output"]
    others = [key for key in parts if key != logits]
    features = "features" if "features" in others else others[0]
    order = [features, logits, *(key for key in others if key != features)]
    model = external.Archive(content, description | {"order": order}).eval()
    model.description["layout"] = layers.layout(model, x, entry["tokens"])
    return model


def _parts(found: Any) -> dict[int | str, Any]:
    """Return what a network returned by the keys that own.pick takes; nothing where it is one
    tensor.
    """
    if isinstance(found, Mapping):
        return {key: part for key, part in found.items() if isinstance(key, str)}
    if isinstance(found, tuple | list):
        return dict(zip(getattr(found, "_fields", range(len(found))), found, strict=True))
    if isinstance(found, Tensor):
        return {}
    named = {"logits": found.logits} if hasattr(found, "logits") else {}
    return {
        key: part for key, part in getattr(found, "__dict__", {}).items() if key[0] != "_"
    } | named


def _shown(found: Any) -> str:
    def one(part: Any) -> str:
        return f"tensor {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__

    parts = _parts(found)
    return (
        f"{type(found).__name__} of {', '.join(f'{k}: {one(v)}' for k, v in parts.items())}"
        if parts
        else one(found)
    )


def _fits(part: Any, n: int, classes: int) -> bool:
    return isinstance(part, Tensor) and tuple(part.shape) == (n, classes)


def _single(part: Any, n: int, classes: int) -> bool:
    return classes == 2 and isinstance(part, Tensor) and tuple(part.shape) in ((n,), (n, 1))


def _logits(
    found: Any, output: int | str | None, where: str, n: int, classes: int
) -> dict[str, Any]:
    """Return ``output`` and ``single`` of a description: which part of what a network returned is
    its logits.

    Without a key it is the part named logits, or the only one of their shape. Raises InputError
    where there is none, and ArgumentError where the network returns no ``output``.
    """
    parts = _parts(found)
    if output is None and not isinstance(found, Tensor):
        fitting = [key for key, part in parts.items() if _fits(part, n, classes)]
        fitting = fitting or [key for key, part in parts.items() if _single(part, n, classes)]
        named = [key for key in parts if key == "logits"]
        if len(named or fitting) != 1:
            many = "more than one" if fitting else "none"
            raise InputError(
                where,
                f"the network returns a {_shown(found)}, {many} of them with {classes} numbers for"
                f" each of {n} images, one a class: the key output says which are the logits, by"
                " name or by place (from 0)",
            )
        (output,) = named or fitting
    if isinstance(output, int) and output < len(parts):
        output = list(parts)[output]
    if output is not None and output not in parts:
        there = ", ".join(map(str, parts)) or "null, since there is one output"
        raise ArgumentError(f"{where}.output", output, f"one of what the network returns: {there}")
    logits = found if output is None else parts[output]
    if not isinstance(logits, Tensor):
        raise InputError(
            where, f"the network returns a {_shown(found)}: the logits must be a tensor"
        )
    single = _single(logits, n, classes)
    if output is not None:
        print(
            f"{where}: the network returns a {_shown(found)}; its logits are {output}", flush=True
        )
    if single:
        print(f"{where}: the one logit is that of the second of two classes", flush=True)
    if not single and tuple(logits.shape) != (n, classes):
        expected = f"({classes},), one for each class of data/images" + " (or one logit)" * (
            classes == 2
        )
        raise InputError(
            where, "shape of the logits of an image", tuple(logits.shape[1:]), expected
        )
    return {"output": output, "single": single}


def _check(model: external.Custom, where: str, x: Tensor) -> None:
    wanted = list(dict.fromkeys([model.penultimate, *model.blocks]))
    last, layout = layers.names(model)[-1], model.description["layout"]
    run = layers.feature_extractor(model, list(dict.fromkeys([*wanted, last])), x.device)
    with torch.no_grad():
        found = _answer(run, where, x)
        few, alone = _answer(run, where, x[:_TRIED]), _answer(model, where, x[:_TRIED])
    for name in (*wanted, last):
        part = found.get(name)
        # two numbers of images, since that of tokens may be one of them, and come first
        if (
            not isinstance(part, Tensor)
            or part.dim() < 2
            or (len(part), len(few[name])) != (len(x), len(alone))
        ):
            shown = f"{tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise InputError(where, f"output of {name}", shown, "a tensor with a row per image")
        if not torch.isfinite(part).all():
            raise InputError(where, f"output of {name}", "NaN or infinite", "finite numbers")
        layers.channels_first(part, name, layout)
    features = found[model.penultimate]
    is_tokens = layers.kind(features, layout) == "tokens"
    if layout["stated"] == "class" and features.dim() > 2 and (features.dim() > 3 or not is_tokens):
        expected = (
            f"mean or null: the layer gives {tuple(features.shape[1:])} for an image, no list of"
            " tokens"
        )
        raise ArgumentError(f"{where}.tokens", "class", expected)
    if is_tokens:
        what = f"the {layout['tokens']} token" if features.dim() == 3 else "the mean"
        print(
            f"{where}: features are {what} of {tuple(features.shape[1:])}, tokens by channels",
            flush=True,
        )
    logits = found[last]
    if not torch.allclose(logits[:_TRIED], alone, rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
        expected = (
            "the same in another batch; save it in evaluation mode (dropout, batch normalisation)"
        )
        raise InputError(where, "answer to an image", "another one", expected)


def judge(
    model: external.Custom,
    where: str,
    images: Array,
    labels: Array,
    classes: Sequence[str],
    device: torch.device,
    warn: Callable[[str], None],
) -> float:
    """Return the accuracy on val, images (n, c, h, w), uint8, and labels (n,), and warn of what is
    odd.

    Raises InputError where they are probabilities or no numbers, or the labels seem to be in
    another order.
    """
    with torch.no_grad():
        parts = [
            _answer(model.plain, where, to_unit(images[i : i + 500], device))
            for i in range(0, len(images), 500)
        ]
    logits, said = forms.checked(
        torch.cat(parts).float().cpu().numpy(), f"{where}, on val", len(classes)
    )
    for sentence in said:
        warn(sentence)
    remedy = "for image folders raw.classes: [...] in params.yaml states it"
    for sentence in agreement.check(logits.argmax(1), labels, classes, f"{where}, on val", remedy):
        warn(sentence)
    return float((logits.argmax(1) == labels).mean())


def outputs(
    fit: Path, val: Path, classes: Sequence[str], out: Path, warn: Callable[[str], None]
) -> dict[str, float]:
    """Write what stage classifier writes, without a network: a file that says so, an empty history,
    accuracies.

    Raises InputError where the logits do not predict the labels of val better than guessing does.
    """
    print(f"classifier: nothing to do: {precomputed.REASON}", flush=True)
    save_tensors(out / "model.safetensors", {}, {"name": "given"})
    save_text(out / "history.csv", "epoch,loss,accuracy_val\n")
    found: dict[str, float] = {"epochs": 0}
    for part in (val, fit):
        logits, labels = load_arrays(part, "logits", "labels")
        where, remedy = f"features of {part.name}", "labels count the columns of logits from 0"
        try:
            said = agreement.check(logits.argmax(1), labels, classes, where, remedy)
        except InputError as error:
            if part == val:
                raise
            said = [str(error)]  # labels of fit are for some baselines alone
        for sentence in said:
            warn(sentence)
        found[f"accuracy_{part.name}"] = float((logits.argmax(1) == labels).mean())
    return found


def _answer(run: Any, where: object, x: Tensor) -> Any:
    try:
        return run(x)
    except Exception as error:  # code of others
        reason = (
            f"{type(error).__name__}:"
            f" {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        )
        shape = "x".join(map(str, x.shape))
        expected = (
            "an answer (size and channels of the entry; an export has a dynamic number of images)"
        )
        raise InputError(where, f"answer to images {shape}", reason, expected) from None
