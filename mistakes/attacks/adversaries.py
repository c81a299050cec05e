"""Attacks by name and arguments, as params.yaml has them: checked before there is anything to
attack.

They are the classes of advertorch.attacks, and those in ATTACKS, which are made like them:
``__init__(predict, ...)`` with the arguments that params.yaml may give, ``num_classes`` where it
wants to know, and ``perturb(x, y)`` from images (n, c, h, w) in [0, 1] to such images.
"""

import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from mistakes.errors import ArgumentError

ATTACKS: dict[str, Any] = {}  # attacks of one's own, by the name that params.yaml gives


def known() -> dict[str, Any]:
    """Return every attack by name.

    advertorch 0.2.3 imports ``zero_gradients`` from torch.autograd.gradcheck, which torch dropped
    in 1.9; this puts it back first. (The attribute torch.autograd.gradcheck is a function of that
    name, the module is in sys.modules.)
    """

    def zero_gradients(x: Any) -> None:
        if x.grad is not None:
            x.grad.detach_().zero_()

    module = sys.modules["torch.autograd.gradcheck"]
    if not hasattr(module, "zero_gradients"):
        module.zero_gradients = zero_gradients  # type: ignore[attr-defined]
    import advertorch.attacks

    return vars(advertorch.attacks) | ATTACKS


def check(attack: str, arguments: Mapping[str, float], key: str = "attacks") -> None:
    """Raise ArgumentError, naming ``key``, where there is no such attack, or it takes other
    arguments.
    """
    kinds = {name: kind for name, kind in known().items() if hasattr(kind, "perturb")}
    signatures = {
        name: inspect.signature(kind).parameters
        for name, kind in kinds.items()
        if "y" in inspect.signature(kind.perturb).parameters
    }
    signatures = {
        name: takes for name, takes in signatures.items() if "base_adversaries" not in takes
    }
    if attack not in signatures:
        there = ", ".join(sorted(signatures))
        raise ArgumentError(f"{key}.attack", attack, f"a class of advertorch.attacks: {there}")
    takes = {
        k: p
        for k, p in signatures[attack].items()
        if k not in ("predict", "num_classes", "loss_fn")
    }
    required = [
        name for name, parameter in takes.items() if parameter.default is inspect.Parameter.empty
    ]
    for name, value in arguments.items():
        where = f"{key} ({attack}).arguments"
        if name not in takes:
            raise ArgumentError(where, name, f"one of {', '.join(takes)}")
        default = takes[name].default
        counts = re.search("^(nb|n|max)_|_steps$|^levels$", name)
        kind = {bool: "true or false", str: "to be left out"}.get(
            type(default), "a whole number" if counts else "a number"
        )
        fits = isinstance(default, bool) == isinstance(value, bool) and not isinstance(default, str)
        if not fits or not np.isfinite(value) or (counts and value != int(value)):
            raise ArgumentError(f"{where}.{name}", value, f"{kind} (its default is {default})")
        if name == "eps" and value < 0:
            raise ArgumentError(f"{where}.eps", value, "0 or more")
    if missing := [name for name in required if name not in arguments]:
        may = ", ".join(name for name in takes if name not in required)
        raise ArgumentError(
            f"{key} ({attack}).arguments",
            problem=f"lacks {', '.join(missing)}, which it needs; it may have {may}",
        )


def build(model: Any, attack: str, arguments: Mapping[str, float]) -> Any:
    """Return the attack on ``model``. Raises ArgumentError where there is none, or not with these
    arguments.
    """
    check(attack, arguments)
    kind = known()[attack]
    takes = inspect.signature(kind).parameters
    # advertorch refuses whole numbers where it wants others
    given = {
        k: float(v) if isinstance(takes[k].default, float) else v for k, v in arguments.items()
    }
    classes = {"num_classes": model.classes} if "num_classes" in takes else {}
    try:
        return kind(model, **given, **classes)
    except Exception as error:  # code of others, with arguments of the user's
        raise failed(attack, error) from None


def eps(attack: str, arguments: Mapping[str, float]) -> float | None:
    """Return how far an attack may go: what ``arguments`` say, else its default; None for one that
    minimises it.

    Examples
    --------
    >>> eps("LinfPGDAttack", {"eps": 0.1}), eps("DDNL2Attack", {})
    (0.1, None)
    """
    takes = inspect.signature(known()[attack]).parameters
    default = takes["eps"].default if "eps" in takes else None
    return arguments.get("eps", default)


def failed(attack: str, error: Exception) -> ArgumentError:
    """Return the refusal of an attack that raised ``error``, with what its class takes."""
    problem = str(error).strip() or traceback.extract_tb(error.__traceback__)[-1].line or ""
    reason = f"{type(error).__name__}: {problem.splitlines()[0][:200] if problem else ''}"
    needs = f"{attack}{inspect.signature(known()[attack])}"
    said = f"{attack} fails with these arguments ({reason}); it is {needs}"
    return ArgumentError("attacks", problem=said)
