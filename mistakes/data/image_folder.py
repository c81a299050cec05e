"""Custom images: a folder with a folder for each class, or a zip or tar of one, to arrays.

Module layout says which folders are classes, module pictures which files are images; others are
left out and counted. Hidden files are no part of it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import UnidentifiedImageError

from mistakes.artifacts import Array
from mistakes.data import archives, layout, pictures
from mistakes.errors import InputError

SMALLEST = 8  # pixels, the least that the networks take
SHOWN = 5  # files named in one line
DARK = 32  # of 255: where no pixel is brighter, the values were not meant to reach from 0 to 255

Files = dict[PurePosixPath, Callable[[], bytes]]


@dataclass(frozen=True)
class Folder:
    """Images uint8 (n, channels, height, width) sorted by path, labels int64 (n,), and what they
    were read from.
    """

    images: Array
    labels: Array
    # names of the class folders, sorted or as asked for; a label is an index into them
    classes: tuple[str, ...]
    files: tuple[str, ...]  # CLASS/FILE of each image
    sha256: tuple[str, ...]  # of the bytes of each file
    skipped: tuple[str, ...]  # CLASS/FILE of what could not be read
    # files that are no images, or lie beside the class folders, and so cannot have a label
    ignored: tuple[str, ...]
    warnings: tuple[str, ...]  # sentences about what was left out or is odd


def read(
    path: Path,
    size: int | None,
    channels: int,
    corrupt: str,
    like: Folder | None = None,
    classes: Sequence[str] | None = None,
    split: str = "train",
) -> Folder:
    """Read every image of a folder, zip or tar whose folders are the classes, as the module says.

    size : side in pixels of the square that each image is scaled to, so that its shorter side fits,
    and cropped to at its centre; None demands one size of all. channels : 1 (grey) or 3 (colour).
    corrupt : ``refuse`` or ``skip`` images that cannot be read. like : the classes and the shape of
    the images must be the same as there. classes : all names of the class folders, in the order of
    the labels; None sorts them. split : which folder is taken where the folders at the top are
    splits. The result depends on names and bytes of the files only, not on how they are packed.

    Raises InputError where the path is missing or of another kind, a member of the archive is a
    link or lies outside of it, a class has no image, there are fewer than two classes or other ones
    than in ``like`` or ``classes``, splits cannot be told from classes, and, naming them, where
    images cannot be read or are of different sizes.
    """
    with ExitStack() as stack:
        shown, hidden = archives.entries(path, layout.LAYOUT, stack)
        entries = layout.unwrapped(shown)
        named, whose = classes, "raw.classes"
        if like is not None:
            named, whose = like.classes, "the classes of the training images"
        found = layout.splits(path, entries, named)
        beside = {
            top: n for top, n in layout.tops(entries).items() if found and top not in found.values()
        }
        if found:
            top = layout.folder_of(split, found, path, entries)
            path, entries = path / top, layout.unwrapped(layout.inside(entries, top))
            layout.splits(path, entries, named, nested=True)
        files = {name: load for name, load in entries if load is not None}
        inside = {
            name: load
            for name, load in files.items()
            if len(name.parts) > 1 and _may_be_image(name)
        }
        order = layout.classes(path, entries, inside, named, whose)
        shape = None if like is None else like.images.shape[1:]
        part, bad = _decode_all(
            path, inside, partial(pictures.decode, size=size, channels=channels), shape
        )
    tops = [PurePosixPath(name).parts[0] for name in part.files]
    _print_counts(path, order, [*map(PurePosixPath, part.files), *bad], hidden)
    if bad and corrupt == "refuse":
        raise _unreadable(path, bad, part)
    for name in sorted(set(order) - set(tops)):
        raise InputError(
            path, f"class {name!r} is all corrupt; each class needs an image that can be read"
        )
    ignored = tuple(sorted({*part.ignored, *map(str, files.keys() - inside.keys())}))
    number = {name: label for label, name in enumerate(order)}
    labels = np.array([number[top] for top in tops], np.int64)
    part = replace(part, labels=labels, classes=order, ignored=ignored)
    said = f"folders beside the splits, without class folders, are left out: {layout.shown(beside)}"
    return replace(
        part, warnings=(*([said] if beside and split == "train" else []), *_warnings(part))
    )


def read_flat(path: Path, shape: tuple[int, int, int], corrupt: str) -> Folder:
    """Read every image of a folder, zip or tar, wherever it lies, as ``read`` does, without
    classes.

    shape : (channels, height, width) of the images, scaled so that they cover it, and cropped at
    the centre.
    """
    expected = "a folder of images, or a zip or tar of one"
    with ExitStack() as stack:
        entries, hidden = archives.entries(path, expected, stack)
        files = {name: load for name, load in entries if load is not None}
        inside = {name: load for name, load in files.items() if _may_be_image(name)}
        channels, height, width = shape
        decode = partial(pictures.decode, size=(width, height), channels=channels)
        part, bad = _decode_all(path, inside, decode, shape)
    if bad and corrupt == "refuse":
        raise _unreadable(path, bad, part)
    if not part.files:
        raise InputError(
            path, f"no image that can be read among {len(files)} files; expected {expected}"
        )
    print(f"raw: {path}: {len(part.files)} images{_besides(hidden)}", flush=True)
    part = replace(
        part, ignored=tuple(sorted({*part.ignored, *map(str, files.keys() - inside.keys())}))
    )
    return replace(part, warnings=_warnings(part))


def splits(path: Path, classes: Sequence[str] | None) -> dict[str, str]:
    """Return the folders of splits at the top of ``path``, by train, val and test, as layout.splits
    does.
    """
    with ExitStack() as stack:
        entries = layout.unwrapped(archives.entries(path, layout.LAYOUT, stack)[0])
        found = layout.splits(path, entries, classes)
        return found and found | {"train": layout.folder_of("train", found, path, entries)}


def _may_be_image(name: PurePosixPath) -> bool:
    return pictures.named_as_image(name) is not False


def _decode_all(
    path: Path, files: Files, decoded: Callable[[bytes], Array], shape: tuple[int, ...] | None
) -> tuple[Folder, dict[PurePosixPath, str]]:
    """Return the images (m, c, h, w) sorted by path, without labels, and why others could not be
    read.

    A file that is no image, and does not say so by its name, is ignored.
    """
    row = {name: i for i, name in enumerate(sorted(files))}
    images, sha256, bad, ignored = np.empty((0, *(shape or ())), np.uint8), {}, {}, []
    for done, (name, load) in enumerate(files.items(), 1):
        try:
            content = load()
            image = decoded(content)
        except Exception as error:  # each image format has its own exceptions
            if pictures.named_as_image(name) is None and isinstance(error, UnidentifiedImageError):
                ignored.append(str(name))
            else:
                bad[name] = pictures.reason(error, name)
            continue
        if len(images) == 0:
            images = np.empty((len(files), *(shape or image.shape)), np.uint8)
        _check_size(path / name, image, images)
        images[row[name]], sha256[name] = image, hashlib.sha256(content).hexdigest()
        if done % 10_000 == 0:
            print(f"raw: {done} of {len(files)} files of {path}", flush=True)
    kept = sorted(sha256)
    if len(kept) < len(images):
        images = images[[row[name] for name in kept]]
    digests = tuple(sha256[name] for name in kept)
    skipped = tuple(map(str, sorted(bad)))
    labels = np.empty(0, np.int64)
    return (
        Folder(images, labels, (), tuple(map(str, kept)), digests, skipped, tuple(ignored), ()),
        bad,
    )


def _unreadable(path: Path, bad: dict[PurePosixPath, str], part: Folder) -> InputError:
    files = [*map(PurePosixPath, part.files), *bad]
    tops = {name.parts[0] for name in bad if len(name.parts) > 1}
    if len(tops) == 1 and all(len(name.parts) > 1 for name in bad):  # all in one class: say which
        (top,) = tops
        path, files = path / top, [name for name in files if name.parts[0] == top]
        bad = {name.relative_to(top): said for name, said in bad.items()}
    named = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:SHOWN]) + (
        ", ..." if len(bad) > SHOWN else ""
    )
    return InputError(
        path,
        f"{len(bad)} of {len(files)} files cannot be read: {named}; raw.corrupt: skip leaves them "
        f"out ({', '.join(pictures.FORMATS)} are read)",
    )


def _check_size(where: Path, image: Array, images: Array) -> None:
    (height, width), (wanted_height, wanted_width) = image.shape[1:], images.shape[2:]
    if (height, width) != (wanted_height, wanted_width):
        expected = (
            f"{wanted_width} x {wanted_height} pixels, as every image before it (raw.size: PIXELS"
            " resizes)"
        )
        raise InputError(where, "size", f"{width} x {height}", expected)
    if min(height, width) < SMALLEST:
        raise InputError(
            where,
            "size",
            f"{width} x {height}",
            f"{SMALLEST} pixels or more (raw.size: PIXELS resizes)",
        )


def _print_counts(
    path: Path, classes: tuple[str, ...], files: list[PurePosixPath], hidden: int
) -> None:
    n = Counter(name.parts[0] for name in files)
    below = Counter(inner[0] for inner in {name.parts[:-1] for name in files} if len(inner) > 1)
    shown = [
        f"{name} ({n[name]}{f' in {below[name]} folders' * (name in below)})" for name in classes
    ]
    print(f"raw: {path}: {len(classes)} classes: {', '.join(shown)}{_besides(hidden)}", flush=True)


def _besides(hidden: int) -> str:
    return f" (hidden files passed over: {hidden})" * bool(hidden)


def _warnings(part: Folder) -> tuple[str, ...]:
    said = []
    for files, what in (
        (part.skipped, "files that cannot be read"),
        (part.ignored, "files that are no images of a class"),
    ):
        if files:
            named = ", ".join(files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
            said.append(f"{what} are left out ({len(files)}): {named}")
    if len(part.images) and part.images.max() < DARK:
        said.append(
            f"no pixel is brighter than {part.images.max()} of 255: are the values scaled"
            " otherwise?"
        )
    return tuple(said)
