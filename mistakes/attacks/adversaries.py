"""Attacks of advertorch by name and arguments, as params.yaml has them: checked before there is
anything to attack.
"""

import inspect
import re
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from mistakes.detectors.compat import advertorch_attacks
from mistakes.errors import ArgumentError


def check(attack: str, arguments: Mapping[str, float], key: str = "adversarial.attacks") -> None:
    """Raise InputError, naming ``key``, where advertorch has no such attack, or it takes other
    arguments.
    """
    kinds: dict[str, Any] = {
        k: v for k, v in vars(advertorch_attacks()).items() if hasattr(v, "perturb")
    }
    signatures = {
        name: inspect.signature(kind).parameters
        for name, kind in kinds.items()
        if "y" in inspect.signature(kind.perturb).parameters
    }
    signatures = {
        name: takes for name, takes in signatures.items() if "base_adversaries" not in takes
    }
    if attack not in signatures:
        known = ", ".join(sorted(signatures))
        raise ArgumentError(f"{key}.attack", attack, f"a class of advertorch.attacks: {known}")
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
    """Return the attack on ``model``. Raises InputError where there is none, or not with these
    arguments.
    """
    check(attack, arguments)
    kind = getattr(advertorch_attacks(), attack)
    takes = inspect.signature(kind).parameters
    # advertorch refuses whole numbers where it wants others
    given = {
        k: float(v) if isinstance(takes[k].default, float) else v for k, v in arguments.items()
    }
    known = {"num_classes": model.classes} if "num_classes" in takes else {}
    try:
        return kind(model, **given, **known)
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
    takes = inspect.signature(getattr(advertorch_attacks(), attack)).parameters
    default = takes["eps"].default if "eps" in takes else None
    return arguments.get("eps", default)


def failed(attack: str, error: Exception) -> ArgumentError:
    """Return the refusal of an attack that raised ``error``, with what its class takes."""
    problem = str(error).strip() or traceback.extract_tb(error.__traceback__)[-1].line or ""
    reason = f"{type(error).__name__}: {problem.splitlines()[0][:200] if problem else ''}"
    needs = f"{attack}{inspect.signature(getattr(advertorch_attacks(), attack))}"
    said = f"{attack} fails with these arguments ({reason}); it is {needs}"
    return ArgumentError("attacks", problem=said)
