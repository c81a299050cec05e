"""How inputs are drawn into splits: at random, in whole groups, and so that no split lacks a class
without need.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mistakes.artifacts import Array

# images of a class: with fewer in a split, what is fitted or measured by class there says nothing
FEW = 2
SHOWN = 10  # classes named


def draw(
    labels: Array, groups: Array | None, counts: Sequence[int], seed: int, rest_first: bool = True
) -> list[Array]:
    """Return the indices of ``counts`` inputs each, drawn without replacement by ``seed``, and of
    all the rest.

    labels : int64 (n,), that no part may lack where it can have them. groups : int64 (n,), of which
    each stands in one part: parts then take whole groups in drawn order until they have as many
    inputs as asked for, or more. rest_first : inputs of rare classes go to the rest before all.
    Where there are too few inputs, the last parts are short.
    """
    generator = np.random.default_rng(seed)
    if groups is None:
        order = generator.permutation(len(labels))
        parts = np.split(order, np.minimum(np.cumsum(counts), len(order)))
        spread(labels, [parts[-1], *parts[:-1]] if rest_first else parts)
        return parts
    members = [
        np.flatnonzero(groups == group) for group in generator.permutation(np.unique(groups))
    ]
    parts = []
    for count in counts:
        taken: list[Array] = []
        while members and sum(map(len, taken)) < count:
            taken.append(members.pop(0))
        parts.append(np.concatenate([np.empty(0, np.int64), *taken]))
    return [*parts, np.concatenate([np.empty(0, np.int64), *members])]


def spread(labels: Array, parts: Sequence[Array]) -> None:
    """Change ``parts``, disjoint indices of ``labels``, in place so that each has each class, as
    far as that goes.

    Where a part lacks a class, an input of that class comes from the part that has most of it, for
    one of the class that the lacking part has most of. Classes with fewer inputs than there are
    parts go to the first parts.
    """
    parts = [part for part in parts if len(part)]
    counts = np.stack([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])
    for label in np.flatnonzero((counts == 0).any(0) & (counts > 0).any(0)):
        for place, part in enumerate(parts):
            n, common = counts[:, label], int(counts[place].argmax())
            givers = [i for i in range(len(parts)) if n[i] > 1 or (n[i] == 1 and i > place)]
            if n[place] or not givers or counts[place, common] < 2:
                continue
            giver = max(givers, key=lambda i: n[i])
            here, there = (
                int(np.flatnonzero(labels[p] == c)[0])
                for p, c in ((part, common), (parts[giver], label))
            )
            part[here], parts[giver][there] = parts[giver][there], part[here]
            for at, change in ((place, 1), (giver, -1)):
                counts[at, label] += change
                counts[at, common] -= change


def few(labels: Mapping[str, Array], classes: Sequence[str]) -> list[str]:
    """Return a sentence for each class that has fewer than FEW inputs in a split; ``labels`` int64
    (n,), by split.

    Examples
    --------
    >>> few({"fit": np.array([0, 0, 0, 0, 0, 0, 1])}, ["cat", "dog"])
    ['few inputs of class dog: 1 in fit']
    """
    counts = {split: np.bincount(part, minlength=len(classes)) for split, part in labels.items()}
    rare = [label for label in range(len(classes)) if min(n[label] for n in counts.values()) < FEW]
    said = []
    for label in rare[:SHOWN]:
        shown = [f"{n[label] or 'none'} in {split}" for split, n in counts.items()]
        said.append(f"few inputs of class {classes[label]}: {', '.join(shown)}")
    more = f"few inputs of {len(rare) - SHOWN} more classes"
    return said + [more] * (len(rare) > SHOWN)
