"""Which folders of own images are classes, and which are splits.

Where the folders at the top are called train and test (or val; also training_set and the like),
they are splits, and the classes are the folders in them. One folder around all is looked into, as
often as there is one. Folders inside of a class folder are passed through.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mistakes.data import pictures
from mistakes.data.archives import Entry
from mistakes.errors import InputError

LAYOUT = "a folder with a folder for each class, or a zip or tar of one"
# words in the names of splits
ROLES = {
    "train": r"train(ing)?",
    "val": r"val(id|idation)?|dev",
    "test": r"test(ing)?",
}
_GIVE = "give the folder of one split as raw.train and of another as raw.test"
_NAME = "name them in raw.classes"


def unwrapped(entries: list[Entry]) -> list[Entry]:
    """Take folders that hold all others off the paths, as archives often have them."""
    while True:
        found = tops(entries)
        folders_inside = any(len(name.parts) > (2 if load else 1) for name, load in entries)
        if len(found) != 1 or not folders_inside:
            return entries
        strays = [entry for entry in entries if len(entry[0].parts) == 1 and entry[1] is not None]
        entries = inside(entries, next(iter(found))) + strays


def inside(entries: list[Entry], top: str) -> list[Entry]:
    """Return what is in one of the folders at the top, by its path from there."""
    found = [(name.parts, load) for name, load in entries]
    return [
        (PurePosixPath(*parts[1:]), load)
        for parts, load in found
        if parts[0] == top and len(parts) > 1
    ]


def tops(entries: list[Entry]) -> Counter[str]:
    """Return the folders at the top, sorted, and how many files are in each or below."""
    found = Counter(
        {name.parts[0]: 0 for name, load in entries if load is None or len(name.parts) > 1}
    )
    found.update(
        name.parts[0] for name, load in entries if load is not None and len(name.parts) > 1
    )
    return Counter(dict(sorted(found.items())))


def splits(
    path: Path, entries: list[Entry], classes: Collection[str] | None, nested: bool = False
) -> dict[str, str]:
    """Return the folders of splits at the top, by train, val and test; none where the classes are
    there.

    A split without class folders has no labels, and is none. classes : where these are the folders,
    they are no splits. nested : there is a split around these already. Raises InputError where
    splits cannot be told from classes.
    """
    below: dict[str, set[str]] = {top: set() for top in tops(entries)}
    images: Counter[str] = Counter()
    direct = False
    for name, load in entries:
        if len(name.parts) > (2 if load else 1):
            below[name.parts[0]].add(name.parts[1])
        if load is not None and len(name.parts) > 1 and pictures.named_as_image(name) is not False:
            images[name.parts[0]] += 1
            direct |= len(name.parts) == 2
    if classes is not None and set(classes) == set(below):
        return {}
    roles = {top: role(top) for top in below if images[top]}
    known = Counter(one for one in roles.values() if one)
    if len(known) > 1 and not nested:
        if None in roles.values() or max(known.values()) > 1:
            problem = f"which are classes and which are splits among {shown(tops(entries))}?"
            raise InputError(path, f"{problem} If splits, {_GIVE}; if all are classes, {_NAME}")
        found = {one: top for top, one in roles.items() if one and below[top]}
        if not found:
            problem = f"holds {shown(tops(entries))}, and no folder for each class in them"
            raise InputError(path, f"{problem}; if these are the classes, {_NAME}")
        return found
    same = next(iter(below.values()), set())
    if (
        len(below) > 1
        and len(same) > 1
        and not direct
        and all(one == same for one in below.values())
    ):
        problem = (
            f"{shown(tops(entries))} hold no images but the same folders"
            f" ({', '.join(sorted(same))})"
        )
        raise InputError(
            path, f"{problem}: are they splits? Then {_GIVE}; if they are classes, {_NAME}"
        )
    return {}


def role(name: str) -> str | None:
    """Return train, val or test where a word in the name of a folder says so.

    Examples
    --------
    >>> role("my_train"), role("cats")
    ('train', None)
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next(
        (one for one, word in ROLES.items() if any(re.fullmatch(word, w) for w in words)), None
    )


def folder_of(split: str, found: Mapping[str, str], path: Path, entries: list[Entry]) -> str:
    """Return the folder of a split; where there is a val and no test, val is the test set, as
    ImageNet's is.

    Raises InputError where there is none.
    """
    folder = found.get(split) or (found.get("val") if split == "test" else None)
    if folder is None:
        problem = (
            f"holds {shown(tops(entries))}, but no folder {split} with a folder for each class"
        )
        raise InputError(path, f"{problem}; if these are the classes, {_NAME}")
    return folder


def classes(
    path: Path,
    entries: list[Entry],
    images: Collection[PurePosixPath],
    wanted: Sequence[str] | None,
    whose: str = "raw.classes",
) -> tuple[str, ...]:
    """Return the names of the class folders in the order of the labels: as ``wanted``, or sorted.

    images : paths of the files that may be images. whose : what ``wanted`` is, for errors. Raises
    InputError where a class has no image, there are fewer than two, or others than are wanted.
    """
    found = tops(entries)
    filled = {name.parts[0] for name in images}
    if not found:
        raise InputError(path, f"no class folders, but files ({len(entries)}); expected {LAYOUT}")
    if wanted is not None and set(wanted) != set(found):
        lacking, more = (
            ", ".join(sorted(one)) for one in (set(wanted) - set(found), set(found) - set(wanted))
        )
        said = [
            f"has no folder for {lacking}" * bool(lacking),
            f"has folders that are no class: {more}" * bool(more),
        ]
        raise InputError(
            path, f"{' and '.join(filter(None, said))}; {whose} are {', '.join(wanted)}"
        )
    for name in found:
        if name not in filled:
            what = (
                f"has no image, but other files ({found[name]})"
                if found[name]
                else "is an empty folder"
            )
            raise InputError(path, f"class {name!r} {what}; each class needs at least one image")
    if len(found) < 2:
        raise InputError(
            path,
            f"one class folder, {shown(found)}, where two or more are needed; expected {LAYOUT}",
        )
    return tuple(sorted(found) if wanted is None else wanted)


def shown(counts: Mapping[str, int]) -> str:
    """Return names with their counts, at most twenty.

    Examples
    --------
    >>> shown({"cat": 2, "dog": 1})
    'cat (2), dog (1)'
    """
    return ", ".join(f"{name} ({n})" for name, n in list(counts.items())[:20]) + (
        ", ..." if len(counts) > 20 else ""
    )
