"""The layers of a network by name, and a function that gives the outputs of some of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mistakes.own import Archive


def names(model: nn.Module) -> list[str]:
    """Return the names of the layers, the last of them the logits.

    These are the nodes of the network's graph as torchvision names them; the modules that it is made of where torch.fx
    cannot draw the graph (a path that depends on the data); the outputs where it is an archive.
    """
    if isinstance(model, Archive):
        return list(model.outputs)
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        return list(get_graph_node_names(model.eval())[1])
    except Exception:  # a forward that torch.fx cannot follow fails in whatever way it likes
        return [*(name for name, _ in model.named_modules() if name), "output"]


def known(name: str, layers: Sequence[str]) -> bool:
    """Say whether there is a layer ``name``: a module that holds others stands for its last one."""
    return name in layers or any(layer.startswith(f"{name}.") for layer in layers)


def cut(model: nn.Module, wanted: Sequence[str], device: torch.device, **to: Any) -> Callable[[Tensor], Any]:
    """Return a function of images (n, c, h, w) that gives a mapping from the layers ``wanted`` to their outputs.

    to : for the network's ``to``, beside ``device``.
    """
    layers = names(model)
    if isinstance(model, Archive):
        return model.to(device).named
    if layers[-1] == "output":
        return _hooked(model.to(device, **to).eval(), wanted)
    from torchvision.models.feature_extraction import create_feature_extractor

    network: nn.Module = create_feature_extractor(model, list(wanted)).to(device, **to).eval()
    return network


def _hooked(model: nn.Module, wanted: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    def run(x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(name).register_forward_hook(lambda _m, _in, out, name=name: found.update({name: out}))
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
