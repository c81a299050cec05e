"""Raw files to arrays, and the one split that everything after it lives by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mistakes.artifacts import Array, load_arrays, load_json
from mistakes.data import formats, splitting
from mistakes.errors import ArgumentError, InputError

SPLITS = ("fit", "val", "cal", "test")


@dataclass(frozen=True)
class Labelled:
    """Inputs by the names of their files, labels int64 (n,), and the index of each in its source,
    int64 (n,).

    inputs : ``images`` uint8 (n, channels, height, width); or given outputs: ``features`` and
    ``logits``, float32 (n, ...), and maybe ``early_1`` and so on. groups : int64 (n,), where it is
    known what belongs together.
    """

    inputs: dict[str, Array]
    labels: Array
    indices: Array
    groups: Array | None = None

    def take(self, chosen: Array) -> "Labelled":
        """Return the inputs at ``chosen``, int64 (m,)."""
        inputs = {key: array[chosen] for key, array in self.inputs.items()}
        groups = None if self.groups is None else self.groups[chosen]
        return Labelled(inputs, self.labels[chosen], self.indices[chosen], groups)

    def with_more(self, other: "Labelled") -> "Labelled":
        """Return these inputs and then those of ``other``, which has groups if these have."""
        inputs = {
            key: np.concatenate([array, other.inputs[key]]) for key, array in self.inputs.items()
        }
        labels = np.concatenate([self.labels, other.labels])
        indices = np.concatenate([self.indices, other.indices])
        if self.groups is None or other.groups is None:
            return Labelled(inputs, labels, indices)
        return Labelled(inputs, labels, indices, np.concatenate([self.groups, other.groups]))


@dataclass(frozen=True)
class Dataset:
    """A data set: its training images, its own test images where it has them, its class names, its
    own split.

    val : images that val and cal are drawn from; None: from train.
    """

    train: Labelled
    test: Labelled | None
    classes: tuple[str, ...]
    splits: dict[str, Labelled] | None = None
    val: Labelled | None = None


def read(dataset: str, folder: Path) -> Dataset:
    """Read the raw files of ``dataset`` in ``folder``; raises InputError where one is missing,
    truncated or corrupt.

    Indices count through the training images and then on through the test images, so that no two
    images share one.
    """
    if dataset == "digits":
        return Dataset(_numbered(*_digits(folder / "digits.csv.gz"), 0), None, tuple("0123456789"))
    if dataset == "image_folder":
        return _image_folder(folder)
    if dataset == "features":
        return _feature_files(folder)
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
        raise InputError(
            path, "content", f"corrupt ({error})", "comma-separated integers"
        ) from None
    grey = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return grey.reshape(-1, 1, 8, 8), rows[:, 64]


def hold_out(dataset: Dataset, classes: Sequence[int | str]) -> tuple[Dataset, Labelled]:
    """Return the data set without some classes, given by name or number, and the images of those
    classes as near OOD.

    The labels that remain are renumbered 0, 1, ... in their order. The images held out are the test
    images of these classes (all their images where the data set has no test set of its own), with
    their original labels. Raises ArgumentError where a class is unknown or fewer than two would
    remain.
    """
    names = list(dataset.classes)
    for one in classes:
        if one not in names and one not in range(len(names)):
            expected = (
                f"names or numbers among {', '.join(f'{i} {name}' for i, name in enumerate(names))}"
            )
            raise ArgumentError("novel_classes", one, expected)
    out = {names.index(one) if isinstance(one, str) else one for one in classes}
    kept = [number for number in range(len(names)) if number not in out]
    if len(kept) < 2:
        raise ArgumentError("novel_classes", list(classes), "at least two classes to be left")
    renumbered = np.full(len(names), -1)
    renumbered[kept] = np.arange(len(kept))

    def keep(part: Labelled) -> Labelled:
        rest = part.take(np.flatnonzero(np.isin(part.labels, kept)))
        return replace(rest, labels=renumbered[rest.labels])

    source = dataset.test or dataset.train
    near = source.take(np.flatnonzero(np.isin(source.labels, list(out))))
    test, val = (keep(part) if part else None for part in (dataset.test, dataset.val))
    left = tuple(names[number] for number in kept)
    return replace(dataset, train=keep(dataset.train), test=test, classes=left, val=val), near


def _image_folder(folder: Path) -> Dataset:
    """Read what stage raw made of own images; an index is a row of train/files.csv, then of val's,
    then of test's.
    """
    description = load_json(folder / "dataset.json")
    parts: dict[str, Labelled] = {}
    first = 0
    for part in description["parts"]:
        images, labels = load_arrays(folder / part, "images", "labels")
        parts[part] = replace(_numbered(images, labels, first), groups=_groups(folder / part))
        first += len(labels)
    return Dataset(
        parts["train"], parts.get("test"), tuple(description["classes"]), val=parts.get("val")
    )


def _groups(folder: Path) -> Array | None:
    return load_arrays(folder, "labels", "groups")[1] if (folder / "groups.npy").is_file() else None


def _feature_files(folder: Path) -> Dataset:
    """Read what stage raw made of own features; indices count through the rows of the parts, in
    their order.
    """
    description = load_json(folder / "dataset.json")
    parts: dict[str, Labelled] = {}
    first = 0
    for part in description["parts"]:
        *inputs, labels = load_arrays(folder / part, *description["arrays"], "labels")
        named = dict(zip(description["arrays"], inputs, strict=True))
        parts[part] = Labelled(
            named, labels, np.arange(first, first + len(labels)), _groups(folder / part)
        )
        first += len(labels)
    train, splits = parts.get("train", parts.get("fit")), parts if "fit" in parts else None
    assert train is not None  # params.yaml is refused otherwise
    return Dataset(train, parts.get("test"), tuple(description["classes"]), splits)


def split(dataset: Dataset, val: int, cal: int, test: int | None, seed: int) -> dict[str, Labelled]:
    """Split into ``fit``, ``val``, ``cal`` and ``test``: disjoint, shuffled by ``seed``.

    val, cal : how many training images to hold out. test : how many test images; None takes the
    data set's own test set, a number draws from it, or from the training images where there is
    none. Raises ArgumentError where the data set is too small, or has no test set of its own and
    ``test`` is None. A split that the data set comes with is taken. Module splitting says how
    groups and rare classes are drawn.
    """
    if dataset.splits is not None:
        return dict(dataset.splits)
    if dataset.test is None and test is None:
        raise ArgumentError("test", None, "a number, since the data set has no test set of its own")
    train, held, from_train = (
        dataset.train,
        dataset.val,
        test if dataset.test is None and test else 0,
    )
    if held is None:
        tested, *drawn, rest = splitting.draw(
            train.labels, train.groups, [from_train, val, cal], seed
        )
        fit, held = train.take(rest), train
    else:
        tested, rest = splitting.draw(train.labels, train.groups, [from_train], seed)
        *drawn, more = splitting.draw(held.labels, held.groups, [val, cal], seed, rest_first=False)
        fit = train.take(rest).with_more(held.take(more))
    if dataset.test is None:
        tests = train.take(tested)
    else:
        tests = dataset.test if test is None else _some(dataset.test, test, seed)
    if test is not None and len(tests.labels) < test:
        raise ArgumentError("test", test, f"at most {len(tests.labels)} images")
    found = {"fit": fit, "val": held.take(drawn[0]), "cal": held.take(drawn[1]), "test": tests}
    _refuse_too_small(dataset, found, val, cal)
    return found


def _some(part: Labelled, n: int, seed: int) -> Labelled:
    return part.take(np.sort(np.random.default_rng([seed, 1]).permutation(len(part.labels))[:n]))


def _refuse_too_small(dataset: Dataset, found: dict[str, Labelled], val: int, cal: int) -> None:
    n = {name: len(part.labels) for name, part in found.items()}
    if n["fit"] and n["val"] >= val and n["cal"] >= cal:
        return
    if dataset.train.groups is not None:
        sizes = np.unique(dataset.train.groups, return_counts=True)[1]
        shown = ", ".join(f"{count} {name}" for name, count in n.items())
        of = f"the training images have {len(sizes)} groups, the largest of {sizes.max()} images"
        problem = "whole groups leave too few images"
        raise ArgumentError("test, val and cal", problem=f"{problem}: {shown} ({of})")
    left = len(dataset.train.labels) - (0 if dataset.test else n["test"])
    expected = f"less than the {left} training images, so that some are left for fit"
    if dataset.val is not None:
        expected = f"at most the {len(dataset.val.labels)} images of raw.val"
    raise ArgumentError("val + cal", val + cal, expected)
