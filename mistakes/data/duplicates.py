"""The same input twice: in two splits, in two classes, in and out of distribution. Counted by
SHA-256.
"""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from mistakes.artifacts import Array
from mistakes.data.datasets import Dataset, Labelled

SHOWN = 3  # pairs named in one line


def digests(inputs: Mapping[str, Array]) -> list[bytes]:
    """Return the SHA-256 of each input: of its pixels, or of its features and logits.

    Examples
    --------
    >>> a, b, c = digests({"images": np.array([[1], [2], [1]], np.uint8)})
    >>> a == c, a == b
    (True, False)
    """
    rows = zip(*(np.ascontiguousarray(inputs[key]) for key in sorted(inputs)), strict=True)
    return [hashlib.sha256(b"".join(part.tobytes() for part in row)).digest() for row in rows]


def between(parts: Mapping[str, Labelled], name: Callable[[int], str]) -> list[str]:
    """Return a sentence each about inputs that stand in several splits, and in several classes;
    none is good.

    name : of an input, by its index.
    """
    seen: dict[bytes, list[tuple[str, int, int]]] = {}
    for split, part in parts.items():
        # numbered otherwise
        labels = part.labels if split != "novel_classes" else np.full(len(part.labels), -1)
        for digest, label, index in zip(digests(part.inputs), labels, part.indices, strict=True):
            seen.setdefault(digest, []).append((split, int(label), int(index)))
    said = []
    for at, what in ((0, "in more than one split"), (1, "in more than one class")):
        known = [
            [place for place in places if place[at] != -1]
            for places in seen.values()
            if len(places) > 1
        ]
        found = [places for places in known if len({place[at] for place in places}) > 1]
        if found:
            pairs = [
                (places[0], next(place for place in places if place[at] != places[0][at]))
                for places in found
            ]
            shown = [
                f"{name(one[2])} ({one[0]}) is {name(other[2])} ({other[0]})"
                for one, other in pairs[:SHOWN]
            ]
            listed = "; ".join(shown) + ("; ..." if len(pairs) > SHOWN else "")
            said.append(f"inputs that stand {what}, the same by SHA-256 ({len(found)}): {listed}")
    return said


def known(dataset: Dataset) -> set[bytes]:
    """Return the SHA-256 of every input of a data set, whatever its split."""
    own = dataset.splits.values() if dataset.splits else [dataset.train, dataset.val, dataset.test]
    return {digest for part in own if part for digest in digests(part.inputs)}
