"""How far a stage is, and the time left: on a terminal, and nowhere else."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

Item = TypeVar("Item")


def bar(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yield ``items``, with a bar on stderr named ``what`` where that is a terminal.

    Examples
    --------
    >>> list(bar(range(3), "epochs"))
    [0, 1, 2]
    """
    yield from tqdm(items, what, leave=False, disable=None, dynamic_ncols=True)


def say(text: str) -> None:
    """Print a line to stdout at once, above the bars."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
