"""Which inputs belong together (one patient, one video), so that no group stands in two splits."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mistakes.artifacts import Array
from mistakes.errors import ArgumentError, InputError


def of_files(groups: str, files: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the name of the group of each file, by part.

    groups : the path of a CSV with the columns file and group, or a regular expression that is
    searched in the name of each file. The group is what its parentheses match, all of them, or
    where there are none the whole match. files : CLASS/FILE of each image, by part; a CSV may also
    say PART/CLASS/FILE. Raises ArgumentError where a file has no group.
    """
    if groups.lower().endswith(".csv"):
        return _of_table(Path(groups), files)
    try:
        expression = re.compile(groups)
    except re.error as error:
        raise ArgumentError(
            "groups", problem=f"{groups!r} is not a regular expression ({error})"
        ) from None
    found = {part: [expression.search(name) for name in names] for part, names in files.items()}
    for part, matches in found.items():
        without = [name for name, match in zip(files[part], matches, strict=True) if match is None]
        if without:
            raise ArgumentError(
                "groups",
                problem=f"{groups!r} is not found in {len(without)} of {len(matches)} "
                f"file names of {part}, such as {without[0]}",
            )
    return {
        part: ["/".join(map(str, match.groups() or (match[0],))) for match in matches if match]
        for part, matches in found.items()
    }


def _of_table(path: Path, files: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    import pandas as pd

    if not path.is_file():
        raise InputError(
            path, "missing; expected a CSV with the columns file and group (raw.groups)"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except Exception as error:  # pandas has many kinds of exceptions for what is no table
        reason = str(error).strip().splitlines()[0]
        raise InputError(path, f"cannot be read as a CSV ({reason})") from None
    if not {"file", "group"} <= set(table.columns):
        raise InputError(
            path, f"has the columns {', '.join(table.columns)}; expected file and group"
        )
    rows = table[["file", "group"]].drop_duplicates()
    twice = rows["file"][rows["file"].duplicated()]
    if len(twice):
        raise InputError(
            path, f"has more than one group for {len(twice)} of its files, such as {twice.iloc[0]}"
        )
    group = {
        file: name for file, name in zip(rows["file"], rows["group"], strict=True) if name.strip()
    }
    found = {
        part: [group.get(f"{part}/{n}", group.get(n)) for n in names]
        for part, names in files.items()
    }
    for part, names in found.items():
        without = [file for file, name in zip(files[part], names, strict=True) if name is None]
        if without:
            shown = f"{len(without)} of {len(names)} files of {part}, such as {without[0]}"
            raise InputError(path, f"has no group for {shown}")
    return {part: [str(name) for name in names] for part, names in found.items()}


def numbered(names: Mapping[str, Array | Sequence[str]], where: str) -> dict[str, Array]:
    """Return the groups of each part as numbers, int64 (n,), the same for the same name.

    Raises InputError, naming them, where a group stands in two parts: they are splits already.

    Examples
    --------
    >>> numbered({"fit": ["ann", "bob", "ann"]}, "groups")["fit"].tolist()
    [0, 1, 0]
    """
    known, numbers = np.unique(
        np.concatenate([np.asarray(part) for part in names.values()]), return_inverse=True
    )
    ends = np.cumsum([len(part) for part in names.values()])
    found = dict(zip(names, np.split(numbers.astype(np.int64), ends[:-1]), strict=True))
    parts = list(found)
    for place, first in enumerate(parts):
        for second in parts[place + 1 :]:
            both = np.intersect1d(found[first], found[second])
            if len(both):
                shown = ", ".join(map(str, known[both[:5]])) + (", ..." if len(both) > 5 else "")
                raise InputError(
                    where, f"groups that stand in {first} and in {second} ({len(both)}): {shown}"
                )
    return found
