"""Old libraries beside a current torch: the two places where they need help, and nothing else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def without_pyplot() -> Iterator[None]:
    """Let nflows be imported without matplotlib: one of its modules imports pyplot for a
    demonstration it never runs.

    Saves a second of start-up in every stage that uses a flow. A matplotlib that is loaded already
    stays as it is.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    package, pyplot = ModuleType("matplotlib"), ModuleType("matplotlib.pyplot")
    package.pyplot = pyplot  # type: ignore[attr-defined]
    sys.modules |= {"matplotlib": package, "matplotlib.pyplot": pyplot}
    try:
        yield
    finally:
        del sys.modules["matplotlib"], sys.modules["matplotlib.pyplot"]


def advertorch_attacks() -> ModuleType:
    """Return advertorch.attacks.

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

    return advertorch.attacks
