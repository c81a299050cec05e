"""Raw files to arrays, and the one split that everything after it lives by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mistakes import formats
from mistakes.artifacts import Array, load_arrays, load_json
from mistakes.errors import InputError

SPLITS = ("fit", "val", "cal", "test")


@dataclass(frozen=True)
class Labelled:
    """Inputs by the names of their files, labels int64 (n,), and the index of each in its source, int64 (n,).

    inputs : ``images`` uint8 (n, channels, height, width); or given outputs: ``features`` and ``logits``, float32
    (n, ...), and maybe ``early_1`` and so on.
    """

    inputs: dict[str, Array]
    labels: Array
    indices: Array

    def take(self, chosen: Array) -> "Labelled":
        """Return the inputs at ``chosen``, int64 (m,)."""
        inputs = {key: array[chosen] for key, array in self.inputs.items()}
        return Labelled(inputs, self.labels[chosen], self.indices[chosen])


@dataclass(frozen=True)
class Dataset:
    """A data set: its training images, its own test images where it has them, its class names, its own split."""

    train: Labelled
    test: Labelled | None
    classes: tuple[str, ...]
    splits: dict[str, Labelled] | None = None


def read(dataset: str, folder: Path) -> Dataset:
    """Read the raw files of ``dataset`` in ``folder``; raises InputError where one is missing, truncated or corrupt.

    Indices count through the training images and then on through the test images, so that no two images share one.
    """
    if dataset == "digits":
        return Dataset(_numbered(*_digits(folder / "digits.csv.gz"), 0), None, tuple("0123456789"))
    if dataset == "image_folder":
        return _own_images(folder)
    if dataset == "features":
        return _own_features(folder)
    images, labels, classes = formats.read(dataset, folder, "train")
    test_images, test_labels, _ = formats.read(dataset, folder, "test")
    test = _numbered(test_images, test_labels, len(images))
    return Dataset(_numbered(images, labels, 0), test, classes)


def _numbered(images: Array, labels: Array, first: int) -> Labelled:
    return Labelled({"images": images}, labels, np.arange(first, first + len(labels)))


def _digits(path: Path) -> tuple[Array, Array]:
    """Read scikit-learn's digits: 1,797 rows of 64 grey values from 0 to 16 and a label."""
    try:
        rows = np.loadtxt(formats.gunzip(path).decode().splitlines(), delimiter=",", dtype=np.int64)
    except ValueError as error:
        raise InputError(path, "content", f"corrupt ({error})", "comma-separated integers") from None
    grey = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return grey.reshape(-1, 1, 8, 8), rows[:, 64]


def hold_out(dataset: Dataset, classes: Sequence[int | str]) -> tuple[Dataset, Labelled]:
    """Return the data set without some classes, given by name or number, and the images of those classes as near OOD.

    The labels that remain are renumbered 0, 1, ... in their order. The images held out are the test images of these
    classes (all their images where the data set has no test set of its own), with their original labels. Raises
    InputError where a class is unknown or fewer than two would remain.
    """
    names = list(dataset.classes)
    for one in classes:
        if one not in names and one not in range(len(names)):
            expected = f"names or numbers among {', '.join(f'{i} {name}' for i, name in enumerate(names))}"
            raise InputError("params.yaml", "images.held_out", one, expected)
    out = {names.index(one) if isinstance(one, str) else one for one in classes}
    kept = [number for number in range(len(names)) if number not in out]
    if len(kept) < 2:
        raise InputError("params.yaml", "images.held_out", list(classes), "at least two classes to be left")
    renumbered = np.full(len(names), -1)
    renumbered[kept] = np.arange(len(kept))

    def keep(part: Labelled) -> Labelled:
        rest = part.take(np.flatnonzero(np.isin(part.labels, kept)))
        return Labelled(rest.inputs, renumbered[rest.labels], rest.indices)

    source = dataset.test or dataset.train
    near = source.take(np.flatnonzero(np.isin(source.labels, list(out))))
    test = keep(dataset.test) if dataset.test else None
    left = tuple(names[number] for number in kept)
    return replace(dataset, train=keep(dataset.train), test=test, classes=left), near


def _own_images(folder: Path) -> Dataset:
    """Read what stage raw made of own images; an index is a row of train/files.csv, then of test/files.csv."""
    description = load_json(folder / "dataset.json")
    images, labels = load_arrays(folder / "train", "images", "labels")
    train, test = _numbered(images, labels, 0), None
    if "test" in description["parts"]:
        images, labels = load_arrays(folder / "test", "images", "labels")
        test = _numbered(images, labels, len(train.labels))
    return Dataset(train, test, tuple(description["classes"]))


def _own_features(folder: Path) -> Dataset:
    """Read what stage raw made of own features; indices count through the rows of the parts, in their order."""
    description = load_json(folder / "dataset.json")
    parts: dict[str, Labelled] = {}
    first = 0
    for part in description["parts"]:
        *inputs, labels = load_arrays(folder / part, *description["arrays"], "labels")
        named = dict(zip(description["arrays"], inputs, strict=True))
        parts[part] = Labelled(named, labels, np.arange(first, first + len(labels)))
        first += len(labels)
    train, splits = parts.get("train", parts.get("fit")), parts if "fit" in parts else None
    assert train is not None  # params.yaml is refused otherwise
    return Dataset(train, parts.get("test"), tuple(description["classes"]), splits)


def split(dataset: Dataset, val: int, cal: int, test: int | None, seed: int) -> dict[str, Labelled]:
    """Split into ``fit``, ``val``, ``cal`` and ``test``: disjoint, shuffled by ``seed``.

    val, cal : how many training images to hold out. test : how many test images; None takes the data set's own test
    set, a number draws from it, or from the training images where there is none. Raises InputError where the data set
    is too small, or has no test set of its own and ``test`` is None. A split that the data set comes with is taken.
    """
    if dataset.splits is not None:
        return dict(dataset.splits)
    order = np.random.default_rng(seed).permutation(len(dataset.train.labels))
    if dataset.test is not None:
        held_out = dataset.test
        if test is not None:
            chosen = np.random.default_rng([seed, 1]).permutation(len(held_out.labels))[:test]
            held_out = held_out.take(np.sort(chosen))
    elif test is None:
        raise InputError("params.yaml", "images.test", None, "a number, since the data set has no test set of its own")
    else:
        held_out, order = dataset.train.take(order[:test]), order[test:]
    if test is not None and len(held_out.labels) < test:
        raise InputError("params.yaml", "images.test", test, f"at most {len(held_out.labels)} images")
    if len(order) <= val + cal:
        expected = f"less than the {len(order)} training images, so that some are left for fit"
        raise InputError("params.yaml", "images.val + images.cal", val + cal, expected)
    take = dataset.train.take
    return {"fit": take(order[val + cal :]), "val": take(order[:val]), "cal": take(order[val : val + cal]),
            "test": held_out}  # fmt: skip
