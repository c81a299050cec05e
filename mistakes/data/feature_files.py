"""Custom features: files of what any model made of its inputs, read and checked.

No pickle is loaded.

A file or folder is one part (such as train) and holds ``features`` (n, d), ``logits`` (n, k),
``labels`` (n,), and maybe ``early_1``, ``early_2``, ... (n, m_i), the features of earlier layers,
and ``groups`` (n,), what belongs together (one patient, one video), as

- a folder of features.npy, logits.npy and so on; an .npz; a .safetensors;
- a .parquet table: the columns ``labels`` and ``groups``, and of each other a column of lists or
  numbered columns, as ``features_0``.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mistakes.artifacts import Array, refuse_non_finite
from mistakes.data import agreement, groups, logits
from mistakes.errors import InputError

KINDS = "a folder of .npy files, or a file .npz, .safetensors or .parquet"
_KEY = re.compile(r"features|logits|labels|groups|early_[1-9][0-9]*")


def read(
    parts: Mapping[str, Path],
    ood: Mapping[str, Path],
    classes: list[str] | None,
    warn: Callable[[str], object] = lambda _sentence: None,
) -> tuple[dict[str, dict[str, Array]], dict[str, dict[str, Array]]]:
    """Return the arrays of each part and of each OOD set, float32, labels and groups int64.

    Labels and groups of OOD sets are left out; groups are numbered over all parts.

    One logit, (n,) or (n, 1), becomes two. warn : is called with a sentence about what is odd.
    Raises InputError, naming file, array and row, where something is missing, unreadable, of
    another type, shape or length than the first part's, NaN or infinite, logits are probabilities,
    a label is no class or seems to be that of another one, or a group stands in two parts.
    """
    first: dict[str, Array] = {}
    found: list[dict[str, dict[str, Array]]] = []
    for paths, labelled in ((parts, True), (ood, False)):
        found.append({})
        for name, path in paths.items():
            arrays = _checked(path, _arrays(path), labelled, warn)
            first = first or arrays
            _refuse_other_shapes(path, arrays, first)
            if labelled and ("groups" in arrays) != ("groups" in first):
                raise InputError(path, "has groups, or lacks them, unlike the first part")
            k = first["logits"].shape[1]
            if classes is not None and k != len(classes):
                raise InputError(
                    path, "logits columns", k, f"{len(classes)}, one for each of raw.classes"
                )
            if labelled:
                _refuse_unknown_labels(path, arrays["labels"], k)
                names = classes or [str(number) for number in range(k)]
                remedy = "labels count the columns of logits from 0"
                for sentence in agreement.order(
                    arrays["logits"].argmax(1), arrays["labels"], names, path, remedy
                ):
                    warn(sentence)
            found[-1][name] = arrays
    if "groups" in first:
        named = {name: arrays.pop("groups") for name, arrays in found[0].items()}
        for name, numbers in groups.numbered(named, "params.yaml: raw.parts").items():
            found[0][name]["groups"] = numbers
    return found[0], found[1]


def _arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a file or folder by their names, unchecked; others than the known names
    are left out.
    """
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    if not path.exists():
        raise InputError(path, "file", "missing", KINDS)
    if not path.is_dir() and path.suffix not in readers:
        raise InputError(path, "kind of file", path.suffix or "none", KINDS)
    try:
        return _folder(path) if path.is_dir() else readers[path.suffix](path)
    except Exception as error:  # each library has its own exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "pickle" in reason:  # numpy's text recommends to load it unsafely
            reason = "pickled Python objects, which are never loaded"
        raise InputError(path, "content", f"unreadable ({reason})", "arrays of numbers") from None


def _folder(path: Path) -> dict[str, Array]:
    files = {file.stem: file for file in sorted(path.glob("*.npy")) if _KEY.fullmatch(file.stem)}
    return {key: np.load(file, allow_pickle=False) for key, file in files.items()}


def _npz(path: Path) -> dict[str, Array]:
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("one array, not an archive of named arrays")
    with file:
        return {key: file[key] for key in file.files if _KEY.fullmatch(key)}


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors.numpy import load_file

    return {key: array for key, array in load_file(path).items() if _KEY.fullmatch(key)}


def _parquet(path: Path) -> dict[str, Array]:
    import pandas as pd

    table = pd.read_parquet(path)
    found: dict[str, Array] = {}
    for column in table.columns:
        if _KEY.fullmatch(str(column)):
            values = table[column]
            lists = values.dtype == object and len(values) > 0 and np.ndim(values.iloc[0]) == 1
            found[str(column)] = np.stack(list(values)) if lists else values.to_numpy()
    numbered = [
        re.fullmatch(r"(features|logits|early_[1-9][0-9]*)_([0-9]+)", str(c)) for c in table.columns
    ]
    columns: dict[str, dict[int, str]] = {}
    for match in filter(None, numbered):
        columns.setdefault(match[1], {})[int(match[2])] = match[0]
    return found | {
        key: table[[of[i] for i in sorted(of)]].to_numpy() for key, of in columns.items()
    }


def _checked(
    path: Path, arrays: dict[str, Array], labelled: bool, warn: Callable[[str], object]
) -> dict[str, Array]:
    """Return the arrays with their types: features, logits, labels where ``labelled``, and early
    features in order.
    """
    early = sorted(
        (key for key in arrays if key.startswith("early_")), key=lambda key: int(key[6:])
    )
    for place, key in enumerate(early, start=1):
        if key != f"early_{place}":
            raise InputError(path, "early features", early, "early_1, early_2, ... without a gap")
    checked = {}
    known = ["labels", *(["groups"] if "groups" in arrays else [])]
    for key in ["features", "logits", *early, *(known if labelled else [])]:
        if key not in arrays:
            raise InputError(
                path,
                key,
                "missing",
                f"an array of this name among {', '.join(arrays) or 'no arrays'}",
            )
        checked[key] = _typed(path, key, arrays[key])
        if key == "logits" and len(checked[key]):
            checked[key], said = logits.checked(checked[key], f"{path}: logits")
            for sentence in said:
                warn(sentence)
        if len(checked[key]) != len(checked["features"]) or not len(checked[key]):
            expected = f"{len(checked['features'])}, as features has, and at least one"
            raise InputError(path, f"rows of {key}", len(checked[key]), expected)
    return checked


def _typed(path: Path, key: str, array: Array) -> Array:
    if key == "labels":
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise InputError(path, key, f"{array.dtype} {array.shape}", "integers (n,)")
        return array.astype(np.int64)
    if key == "groups":
        texts = all(isinstance(name, str) for name in array.flat)
        if array.ndim != 1 or not (texts or array.dtype.kind in "iu"):
            raise InputError(
                path, key, f"{array.dtype} {array.shape}", "whole numbers or text (n,)"
            )
        return array.astype(str)
    if (
        key == "logits"
        and array.dtype.kind in "iuf"
        and array.ndim in (1, 2)
        and array.shape[1:] != (0,)
    ):
        return array  # module logits goes on with them
    if array.dtype.kind not in "iuf" or array.ndim != 2 or not array.shape[1]:
        expected = (
            "numbers (n, k), or (n,) of one logit" if key == "logits" else "numbers (n, 1 or more)"
        )
        raise InputError(path, key, f"{array.dtype} {array.shape}", expected)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        converted = array.astype(np.float32)
    refuse_non_finite(converted, f"{path}: {key}")
    return converted


def _refuse_other_shapes(path: Path, arrays: dict[str, Array], first: dict[str, Array]) -> None:
    expected = {key: array.shape[1] for key, array in first.items() if array.ndim == 2}
    widths = {key: array.shape[1] for key, array in arrays.items() if array.ndim == 2}
    for key in sorted(expected.keys() | widths.keys()):
        if widths.get(key) != expected.get(key):
            wanted: Any = expected.get(key, "none")
            raise InputError(
                path,
                f"columns of {key}",
                widths.get(key, "none"),
                f"{wanted}, as in the first part",
            )


def _refuse_unknown_labels(path: Path, labels: Array, k: int) -> None:
    wrong = (labels < 0) | (labels >= k)
    if not wrong.any():
        return
    found = sorted(set(labels.tolist()))
    if found[0] == 1 and found[-1] == k:
        raise InputError(
            path, f"labels count from 1 to {k}, but columns of logits from 0 to {k - 1}: subtract 1"
        )
    if k == 2 and len(found) == 2:
        shown = f"{found[0]} and {found[1]}"
        raise InputError(
            path, f"labels are {shown}, expected 0 and 1, the two classes of the logits"
        )
    row = int(wrong.argmax())
    expected = f"0 to {k - 1}, a column of logits" + " (one logit is for two classes)" * (k == 2)
    raise InputError(path, f"label of row {row}", int(labels[row]), expected)
