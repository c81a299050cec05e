"""The layers of a network by name, a function that gives the outputs of some of them, and where
their channels are.

The output of a layer is a vector (n, d), maps (n, c, h, w) or (n, c, length), or tokens (n, tokens,
c), of which a grid (n, h, w, c) is one kind. Which it is no shape tells, but the modules that write
and read tensors of that shape do: a linear layer has its channels last, a convolution has them
first.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mistakes.errors import ArgumentError
from mistakes.networks.external import Archive

# of the outputs of a network's layers; ``layout`` and ``kind`` say of which keys
Layout = Mapping[str, Any]
MAPS: Layout = {"first": [], "last": [], "stated": "maps", "tokens": "mean"}


def names(model: nn.Module) -> list[str]:
    """Return the names of the layers, the last of them the logits.

    These are the nodes of the network's graph as torchvision names them; the modules that it is
    made of where torch.fx cannot draw the graph (a path that depends on the data); the outputs
    where it is an archive.

    Examples
    --------
    >>> names(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    ['input', '0', '1']
    """
    if isinstance(model, Archive):
        return list(model.outputs)
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        with warnings.catch_warnings():  # that training has other nodes
            warnings.simplefilter("ignore")
            return list(get_graph_node_names(model.eval())[1])
    except Exception:  # a forward that torch.fx cannot follow fails in whatever way it likes
        return [*(name for name, _ in model.named_modules() if name), "output"]


def known(name: str, layers: Sequence[str]) -> bool:
    """Say whether there is a layer ``name``: a module that holds others stands for its last one.

    Examples
    --------
    >>> known("head", ["flat", "head.1"]), known("hea", ["head"])
    (True, False)
    """
    return name in layers or any(layer.startswith(f"{name}.") for layer in layers)


def feature_extractor(
    model: nn.Module, wanted: Sequence[str], device: torch.device, **to: Any
) -> Callable[[Tensor], Any]:
    """Return a function of images (n, c, h, w) that gives a mapping from the layers ``wanted`` to
    their outputs.

    to : for the network's ``to``, beside ``device``.
    """
    layers = names(model)
    if isinstance(model, Archive):
        return model.to(device).named
    if layers[-1] == "output":
        return _hooked(model.to(device, **to).eval(), wanted)
    from torchvision.models.feature_extraction import create_feature_extractor

    network: nn.Module = (
        create_feature_extractor(model, list(wanted), suppress_diff_warning=True)
        .to(device, **to)
        .eval()
    )
    return network


def _hooked(model: nn.Module, wanted: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    def run(x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(name).register_forward_hook(
                lambda _m, _in, out, name=name: found.update({name: out})
            )
            for name in wanted
            if name != "output"
        ]
        try:
            found["output"] = model(x)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    return run


def layout(model: nn.Module, x: Tensor, stated: str | None) -> Layout:
    """Return which shapes (without n) in a network have channels first, which have them last, and
    what tokens become.

    Found by running ``model`` on images (n, c, h, w) and looking at what modules read and write.
    stated : class, mean or maps, by the user; None: the class token where the network has a
    parameter of such a name, else the mean.
    """
    first, last = set(), set()

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        for parts, channels in zip((inputs, (output,)), _channels(module), strict=True):
            for part in parts:
                if isinstance(part, Tensor) and part.dim() > 2:
                    shape = tuple(part.shape[1:])
                    ends_with, begins_with = shape[-1] == channels, shape[0] == channels
                    if ends_with and not (begins_with and _is_of_maps(module)):
                        last.add(shape)
                    elif begins_with:
                        first.add(shape)

    hooks = [module.register_forward_hook(look) for module in model.modules() if _channels(module)]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    has_one = any(
        re.search("class_token|cls_token|class_embedding", name)
        for name, _ in model.named_parameters()
    )
    tokens = stated if stated in ("class", "mean") else "class" if has_one else "mean"
    sides = {"first": sorted(map(list, first - last)), "last": sorted(map(list, last - first))}
    return sides | {"stated": stated, "tokens": tokens}


def _channels(module: nn.Module) -> tuple[int, ...]:
    """Return how many channels a module reads and writes, where it says so."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, module.out_channels
    weight = getattr(module, "weight", None)  # of a normalisation, one number a channel
    if isinstance(weight, Tensor) and weight.dim() == 1 and len(weight) > 1:
        return len(weight), len(weight)
    return ()


def _is_of_maps(module: nn.Module) -> bool:
    return isinstance(
        module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm
    )


def kind(part: Tensor, layout: Layout) -> str:
    """Return what the output of a layer is: ``vector``, ``maps``, ``tokens``, or ``unknown``.

    layout : of the network. What is stated decides where no module shows which axis has the
    channels; maps, always.
    """
    shape = list(part.shape[1:])
    if len(shape) < 2:
        return "vector"
    if shape in layout["last"] and layout["stated"] != "maps":
        return "tokens"
    if shape in layout["first"] or len(shape) > 2:  # maps are what layers of images mostly give
        return "maps"
    return {None: "unknown", "maps": "maps"}.get(layout["stated"], "tokens")


def channels_first(part: Tensor, name: str, layout: Layout) -> Tensor:
    """Return the output (n, ...) of layer ``name`` as (n, d) or (n, c, ...).

    Raises ArgumentError where it is no such tensor, or which axis has the channels is unknown.
    """
    if not isinstance(part, Tensor) or part.dim() < 2:
        shown = (
            f"a tensor {tuple(part.shape)}"
            if isinstance(part, Tensor)
            else f"a {type(part).__name__}"
        )
        expected = "a tensor with a row for each image is needed"
        raise ArgumentError(
            "layer", problem=f"{name.removeprefix('net.')} gives {shown}; {expected}"
        )
    found = kind(part, layout)
    if found == "unknown":
        a, b = part.shape[1:]
        raise ArgumentError(
            "layer",
            problem=f"{name.removeprefix('net.')} gives {a} x {b} numbers for an image, and the"
            " network does not show which of them are channels: the entry of the classifier says"
            f" it by the key tokens, class (the first of {a} tokens), mean (of all {a} tokens) or"
            " maps (the first axis is the channels)",
        )
    return part.flatten(1, -2).transpose(1, 2) if found == "tokens" else part


def vector(part: Tensor, name: str, layout: Layout) -> Tensor:
    """Return the output (n, ...) of layer ``name`` as features (n, d).

    Maps are averaged over space; of tokens, as ``layout`` says, it is the first or the mean. A grid
    is averaged always.
    """
    maps = channels_first(part, name, layout)
    if part.dim() == 3 and layout["tokens"] == "class" and kind(part, layout) == "tokens":
        return part[:, 0]
    return maps.flatten(2).mean(2) if maps.dim() > 2 else maps
