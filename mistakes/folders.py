"""Own images: a folder with a folder for each class, or a zip or tar of one, to arrays.

Which folders are classes: where the folders at the top are called train and test (or val; also training_set and the
like), they are splits, and the classes are the folders in them. One folder around all is looked into, as often as
there is one. Folders inside of a class folder are passed through. Hidden files are no part of it.

Which files are images: module pictures. Others are left out and counted.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import UnidentifiedImageError

from mistakes import archives, pictures
from mistakes.archives import Entry
from mistakes.artifacts import Array
from mistakes.errors import InputError

LAYOUT = "a folder with a folder for each class, or a zip or tar of one"
SMALLEST = 8  # pixels, the least that the networks take
SHOWN = 5  # files named in one line
DARK = 32  # of 255: where no pixel is brighter, the values were not meant to reach from 0 to 255
ROLES = {"train": r"train(ing)?", "val": r"val(id|idation)?|dev", "test": r"test(ing)?"}  # words in the names of splits

Files = dict[PurePosixPath, Callable[[], bytes]]


@dataclass(frozen=True)
class Folder:
    """Images uint8 (n, channels, height, width) sorted by path, labels int64 (n,), and what they were read from."""

    images: Array
    labels: Array
    classes: tuple[str, ...]  # names of the class folders, sorted or as asked for; a label is an index into them
    files: tuple[str, ...]  # CLASS/FILE of each image
    sha256: tuple[str, ...]  # of the bytes of each file
    skipped: tuple[str, ...]  # CLASS/FILE of what could not be read
    ignored: tuple[str, ...]  # files that are no images, or lie beside the class folders, and so cannot have a label
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

    size : side in pixels of the square that each image is scaled to, so that its shorter side fits, and cropped to at
    its centre; None demands one size of all. channels : 1 (grey) or 3 (colour). corrupt : ``refuse`` or ``skip`` images
    that cannot be read. like : the classes and the shape of the images must be the same as there. classes : all names
    of the class folders, in the order of the labels; None sorts them. split : which folder is taken where the folders
    at the top are splits.
    The result depends on names and bytes of the files only, not on how they are packed.

    Raises InputError where the path is missing or of another kind, a member of the archive is a link or lies outside of
    it, a class has no image, there are fewer than two classes or other ones than in ``like`` or ``classes``, splits
    cannot be told from classes, and, naming them, where images cannot be read or are of different sizes.
    """
    with ExitStack() as stack:
        entries = _unwrapped(archives.entries(path, LAYOUT, stack))
        named = like.classes if like is not None else classes
        found = _splits(path, entries, named)
        if found and split not in found:
            shown = _shown(_tops(entries))
            raise InputError(path, f"holds {shown}, but no folder {split} with a folder for each class")
        where = path / found[split] if found else path
        if found:
            entries = _unwrapped(_inside(entries, found[split]))
            _splits(where, entries, named, nested=True)
        files = {name: load for name, load in entries if load is not None}
        inside = {name: load for name, load in files.items() if len(name.parts) > 1 and _may_be_image(name)}
        order = _classes(where, entries, inside, named, like is not None)
        shape = None if like is None else like.images.shape[1:]
        read_all = partial(pictures.decode, size=size, channels=channels)
        part, bad = _decode_all(where, inside, read_all, shape)
    tops = [PurePosixPath(name).parts[0] for name in part.files]
    _print_counts(where, order, [*map(PurePosixPath, part.files), *bad])
    if bad and corrupt == "refuse":
        raise _unreadable(where, bad, part)
    for name in order:
        if name not in tops:
            raise InputError(where, f"class {name!r} is all corrupt; each class needs an image that can be read")
    ignored = tuple(sorted({*part.ignored, *map(str, files.keys() - inside.keys())}))
    number = {name: label for label, name in enumerate(order)}
    labels = np.array([number[top] for top in tops], np.int64)
    part = replace(part, labels=labels, classes=order, ignored=ignored)
    return replace(part, warnings=_warnings(part))


def read_flat(path: Path, shape: tuple[int, int, int], corrupt: str) -> Folder:
    """Read every image of a folder, zip or tar, wherever it lies, as ``read`` does, without classes.

    shape : (channels, height, width) of the images, scaled so that they cover it, and cropped at the centre.
    """
    layout = "a folder of images, or a zip or tar of one"
    with ExitStack() as stack:
        files = {name: load for name, load in archives.entries(path, layout, stack) if load is not None}
        inside = {name: load for name, load in files.items() if _may_be_image(name)}
        channels, height, width = shape
        decode = partial(pictures.decode, size=(width, height), channels=channels)
        part, bad = _decode_all(path, inside, decode, shape)
    if bad and corrupt == "refuse":
        raise _unreadable(path, bad, part)
    if not part.files:
        raise InputError(path, f"no image that can be read among {len(files)} files; expected {layout}")
    print(f"raw: {path}: {len(part.files)} images", flush=True)
    part = replace(part, ignored=tuple(sorted({*part.ignored, *map(str, files.keys() - inside.keys())})))
    return replace(part, warnings=_warnings(part))


def splits(path: Path, classes: Sequence[str] | None) -> dict[str, str]:
    """Return the folders of splits at the top of ``path``, by train, val and test; none where they are the classes.

    Where there is a val and no test, val is the test set, as ImageNet's is. A split without class folders has no
    labels, and is none. Raises InputError as ``read``.
    """
    with ExitStack() as stack:
        return _splits(path, _unwrapped(archives.entries(path, LAYOUT, stack)), classes)


def _may_be_image(name: PurePosixPath) -> bool:
    return pictures.named_as_image(name) is not False


def _unwrapped(entries: list[Entry]) -> list[Entry]:
    """Take folders that hold all others off the paths, as archives often have them."""
    while True:
        tops = _tops(entries)
        folders_inside = any(len(name.parts) > (2 if load else 1) for name, load in entries)
        if len(tops) != 1 or not folders_inside:
            return entries
        beside = [entry for entry in entries if len(entry[0].parts) == 1 and entry[1] is not None]
        entries = _inside(entries, next(iter(tops))) + beside


def _inside(entries: list[Entry], top: str) -> list[Entry]:
    return [
        (PurePosixPath(*name.parts[1:]), load) for name, load in entries if name.parts[0] == top and len(name.parts) > 1
    ]


def _tops(entries: list[Entry]) -> Counter[str]:
    """Return the folders at the top, and how many files are in each or below."""
    tops = Counter({name.parts[0]: 0 for name, load in entries if load is None or len(name.parts) > 1})
    tops.update(name.parts[0] for name, load in entries if load is not None and len(name.parts) > 1)
    return Counter(dict(sorted(tops.items())))


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in list(counts.items())[:20]) + (", ..." if len(counts) > 20 else "")


def _role(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((role for role, word in ROLES.items() if any(re.fullmatch(word, one) for one in words)), None)


def _splits(path: Path, entries: list[Entry], classes: Sequence[str] | None, nested: bool = False) -> dict[str, str]:
    """Return the name of the folder of each split, as ``splits``; nested : there is a split around these already."""
    tops = _tops(entries)
    if classes is not None and set(classes) == set(tops):
        return {}
    below = {top: set(_tops(_inside(entries, top))) for top in tops}
    roles = Counter(filter(None, map(_role, tops)))
    give = "give the folder of one split as raw.train and of another as raw.test"
    if len(roles) > 1 and not nested:
        if sum(roles.values()) < len(tops) or max(roles.values()) > 1:
            raise InputError(path, f"which are classes and which are splits among {_shown(tops)}? If splits, {give}; "
                             "if all are classes, name them in raw.classes")  # fmt: skip
        found = {str(_role(top)): top for top in tops if below[top]}
        if "val" in found and "test" not in found:
            found["test"] = found.pop("val")
        if "train" not in found:
            raise InputError(path, f"holds {_shown(tops)}, but no training images in a folder for each class; if these "
                             "are the classes, name them in raw.classes")  # fmt: skip
        return found
    direct = any(load is not None and len(name.parts) == 2 and _may_be_image(name) for name, load in entries)
    same = next(iter(below.values()), set())
    if len(tops) > 1 and len(same) > 1 and not direct and all(one == same for one in below.values()):
        raise InputError(path, f"{_shown(tops)} hold no images but the same folders ({', '.join(sorted(same))}): are "
                         f"they splits? Then {give}; if they are classes, name them in raw.classes")  # fmt: skip
    return {}


def _classes(
    path: Path, entries: list[Entry], images: Files, wanted: Sequence[str] | None, of_training: bool
) -> tuple[str, ...]:
    tops = _tops(entries)
    filled = {name.parts[0] for name in images}
    if not tops:
        raise InputError(path, f"no class folders; expected {LAYOUT}")
    if wanted is not None and set(wanted) != set(tops):
        whose = "the classes of the training images" if of_training else "raw.classes"
        lacking, more = (", ".join(sorted(one)) for one in (set(wanted) - set(tops), set(tops) - set(wanted)))
        said = [f"has no folder for {lacking}" * bool(lacking), f"has folders that are no class: {more}" * bool(more)]
        raise InputError(path, f"{' and '.join(filter(None, said))}; {whose} are {', '.join(wanted)}")
    for name in tops:
        if name not in filled:
            what = f"has no image ({tops[name]} other files)" if tops[name] else "is an empty folder"
            raise InputError(path, f"class {name!r} {what}; each class needs at least one image")
    if len(tops) < 2:
        raise InputError(path, f"one class folder, {_shown(tops)}, where two or more are needed; expected {LAYOUT}")
    return tuple(sorted(tops) if wanted is None else wanted)


def _decode_all(
    path: Path, files: Files, decoded: Callable[[bytes], Array], shape: tuple[int, ...] | None
) -> tuple[Folder, dict[PurePosixPath, str]]:
    """Return the images (m, c, h, w) sorted by path, without labels, and why others could not be read.

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
    return Folder(images, labels, (), tuple(map(str, kept)), digests, skipped, tuple(ignored), ()), bad


def _unreadable(path: Path, bad: dict[PurePosixPath, str], part: Folder) -> InputError:
    files = [*map(PurePosixPath, part.files), *bad]
    tops = {name.parts[0] for name in bad if len(name.parts) > 1}
    if len(tops) == 1 and all(len(name.parts) > 1 for name in bad):  # all in one class: say which
        (top,) = tops
        path, files = path / top, [name for name in files if name.parts[0] == top]
        bad = {name.relative_to(top): said for name, said in bad.items()}
    named = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:SHOWN]) + (", ..." if len(bad) > SHOWN else "")
    return InputError(path, f"{len(bad)} of {len(files)} files cannot be read: {named}; raw.corrupt: skip leaves them "
                      f"out ({', '.join(pictures.FORMATS)} are read)")  # fmt: skip


def _check_size(where: Path, image: Array, images: Array) -> None:
    (height, width), (wanted_height, wanted_width) = image.shape[1:], images.shape[2:]
    if (height, width) != (wanted_height, wanted_width):
        expected = f"{wanted_width} x {wanted_height} pixels, as every image before it (raw.size: PIXELS resizes)"
        raise InputError(where, "size", f"{width} x {height}", expected)
    if min(height, width) < SMALLEST:
        raise InputError(where, "size", f"{width} x {height}", f"{SMALLEST} pixels or more (raw.size: PIXELS resizes)")


def _print_counts(path: Path, classes: tuple[str, ...], files: list[PurePosixPath]) -> None:
    n = Counter(name.parts[0] for name in files)
    below = Counter(inner[0] for inner in {name.parts[:-1] for name in files} if len(inner) > 1)
    shown = [f"{name} ({n[name]}{f' in {below[name]} folders' * (name in below)})" for name in classes]
    print(f"raw: {path}: {len(classes)} classes: {', '.join(shown)}", flush=True)


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
        said.append(f"no pixel is brighter than {part.images.max()} of 255: are the values scaled otherwise?")
    return tuple(said)
