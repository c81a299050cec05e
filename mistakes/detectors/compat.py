"""nflows without matplotlib, which it imports and does not need."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


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
