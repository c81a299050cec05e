"""Own images: a folder with a folder for each class, or a zip or tar of one, to arrays. Nothing is unpacked to disk."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mistakes.artifacts import Array
from mistakes.errors import InputError

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow knows more; some of them start other programs
LAYOUT = "a folder with a folder for each class, or a zip or tar of one"
SMALLEST = 8  # pixels, the least that the networks take
SHOWN = 5  # corrupt files named in one line

Entry = tuple[PurePosixPath, Callable[[], bytes] | None]  # a file and how to read it, or a folder (None)


@dataclass(frozen=True)
class Folder:
    """Images uint8 (n, channels, height, width) sorted by path, labels int64 (n,), and what they were read from."""

    images: Array
    labels: Array
    classes: tuple[str, ...]  # names of the class folders, sorted; a label is an index into them
    files: tuple[str, ...]  # CLASS/FILE of each image
    sha256: tuple[str, ...]  # of the bytes of each file
    skipped: tuple[str, ...]  # CLASS/FILE of what could not be read
    ignored: tuple[str, ...]  # files beside the class folders, which cannot have a label


def read(path: Path, size: int | None, channels: int, corrupt: str, like: Folder | None = None) -> Folder:
    """Read every image of a folder, zip or tar whose folders are the classes; one folder around them all is allowed.

    size : side in pixels of the square that each image is scaled to, so that its shorter side fits, and cropped to at
    its centre; None demands one size of all. channels : 1 (grey) or 3 (colour). corrupt : ``refuse`` or ``skip`` what
    is no whole 8-bit image of FORMATS. like : the classes and the shape of the images must be the same as there.
    Hidden files are no part of it. The result depends on names and bytes of the files only, not on how they are packed.

    Raises InputError where the path is missing or of another kind, a member of the archive is a link or lies outside of
    it, a class has no image, there are fewer than two classes or other ones than in ``like``, and, naming them, where
    files are corrupt or of different sizes.
    """
    with ExitStack() as stack:
        entries = _below_top(_entries(path, stack))
        classes = _classes(path, entries)
        if like is not None and classes != like.classes:
            different = ", ".join(sorted(set(classes) ^ set(like.classes)))
            raise InputError(path, "classes", f"different ({different})", "the classes of the training images")
        inside = {name: load for name, load in entries if load is not None and len(name.parts) > 1}
        shape = None if like is None else like.images.shape[1:]
        images, sha256 = _decode_all(path, inside, partial(decode, size=size, channels=channels), corrupt, shape)
    kept = sorted(sha256)
    labels = np.array([classes.index(name.parts[0]) for name in kept], np.int64)
    for label, name in enumerate(classes):
        if label not in labels:
            raise InputError(path, f"class {name!r}", "all corrupt", "at least one image")
    return Folder(
        images, labels, classes, tuple(map(str, kept)), tuple(sha256[name] for name in kept),
        skipped=tuple(map(str, sorted(inside.keys() - sha256.keys()))),
        ignored=tuple(sorted(str(name) for name, load in entries if load is not None and len(name.parts) == 1)),
    )  # fmt: skip


def _entries(path: Path, stack: ExitStack) -> list[Entry]:
    """List files and folders, in the order in which they are read fastest; hidden ones are left out."""
    if not path.exists():
        raise InputError(path, "file", "missing", LAYOUT)
    try:
        if path.is_dir():
            found = list(_walk(path))
        elif zipfile.is_zipfile(path):
            found = _zip(stack.enter_context(zipfile.ZipFile(path)))
        elif tarfile.is_tarfile(path):
            found = _tar(stack.enter_context(tarfile.TarFile.open(path)), path)
        else:
            raise InputError(path, "content", "another kind of file", LAYOUT)
    except InputError:
        raise
    except Exception as error:  # each kind of archive and compression has its own exceptions
        raise InputError(path, "content", f"unreadable ({_reason(error)})", LAYOUT) from None
    for name, _ in found:
        if name.is_absolute() or ".." in name.parts:
            raise InputError(path, "member", str(name), "a path that stays inside the archive")
    return [(name, load) for name, load in found if name.parts and not hidden(name)]


def _walk(path: Path) -> Iterator[Entry]:
    def refuse(error: OSError) -> NoReturn:  # os.walk would leave out what it may not read
        raise error

    for root, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        relative = PurePosixPath(Path(root).relative_to(path).as_posix())
        folders.sort()
        yield from ((relative / name, None) for name in folders)
        yield from ((relative / name, Path(root, name).read_bytes) for name in sorted(files))


def _zip(archive: zipfile.ZipFile) -> list[Entry]:
    return [
        (PurePosixPath(member.filename), None if member.is_dir() else partial(archive.read, member))
        for member in archive.infolist()
    ]


def _tar(archive: tarfile.TarFile, path: Path) -> list[Entry]:
    def load(member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        assert file is not None  # a regular file
        return file.read()

    members = archive.getmembers()
    for member in members:
        if not member.isreg() and not member.isdir():
            raise InputError(path, f"member {member.name}", "a link or device", "files and folders only")
    return [(PurePosixPath(member.name), None if member.isdir() else partial(load, member)) for member in members]


def hidden(name: PurePosixPath) -> bool:
    """Tell what file managers add: .DS_Store and the like, __MACOSX in zips."""
    return name.name in {"Thumbs.db", "desktop.ini"} or any(p.startswith(".") or p == "__MACOSX" for p in name.parts)


def _below_top(entries: list[Entry]) -> list[Entry]:
    """Take one folder that holds all others off the paths, as archives often have it."""
    tops = {name.parts[0] for name, load in entries if load is None or len(name.parts) > 1}
    folders_inside = any(len(name.parts) > (2 if load else 1) for name, load in entries)
    if len(tops) != 1 or not folders_inside:
        return entries
    shorter = [(PurePosixPath(*name.parts[1:]), load) for name, load in entries if len(name.parts) > 1]
    return shorter + [(name, load) for name, load in entries if len(name.parts) == 1 and load is not None]


def _classes(path: Path, entries: list[Entry]) -> tuple[str, ...]:
    folders = {name.parts[0] for name, load in entries if load is None or len(name.parts) > 1}
    filled = {name.parts[0] for name, load in entries if load is not None and len(name.parts) > 1}
    for empty in sorted(folders - filled):
        raise InputError(path, f"class {empty!r}", "an empty folder", "at least one image")
    if len(folders) < 2:
        raise InputError(path, "class folders", sorted(folders), f"two or more ({LAYOUT})")
    return tuple(sorted(folders))


def _decode_all(
    path: Path,
    files: dict[PurePosixPath, Callable[[], bytes]],
    decoded: Callable[[bytes], Array],
    corrupt: str,
    shape: tuple[int, ...] | None,
) -> tuple[Array, dict[PurePosixPath, str]]:
    """Return the images (m, c, h, w) sorted by path, and the SHA-256 of each file that is whole."""
    row = {name: i for i, name in enumerate(sorted(files))}
    images, sha256, bad = np.empty((0,), np.uint8), {}, {}
    for done, (name, load) in enumerate(files.items(), 1):
        try:
            content = load()
            image = decoded(content)
        except Exception as error:  # each image format has its own exceptions
            bad[name] = _reason(error)
            continue
        if len(images) == 0:
            shape = shape or image.shape
            images = np.empty((len(files), *shape), np.uint8)
        _check_size(path / name, image, images)
        images[row[name]], sha256[name] = image, hashlib.sha256(content).hexdigest()
        if done % 10_000 == 0:
            print(f"raw: {done} of {len(files)} files of {path}", flush=True)
    if bad:
        named = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:SHOWN])
        told = f"{len(bad)} corrupt: {named}" + (", ..." if len(bad) > SHOWN else "")
        if corrupt == "refuse":
            raise InputError(path, "files", told, f"8-bit {', '.join(FORMATS)} (raw.corrupt: skip leaves others out)")
        print(f"raw: {path}: skipped {told}", flush=True)
        images = images[sorted(row[name] for name in sha256)]
    return images, sha256


def _check_size(where: Path, image: Array, images: Array) -> None:
    (height, width), (wanted_height, wanted_width) = image.shape[1:], images.shape[2:]
    if (height, width) != (wanted_height, wanted_width):
        expected = f"{wanted_width} x {wanted_height} pixels, as every image before it (raw.size: PIXELS resizes)"
        raise InputError(where, "size", f"{width} x {height}", expected)
    if min(height, width) < SMALLEST:
        raise InputError(where, "size", f"{width} x {height}", f"{SMALLEST} pixels or more (raw.size: PIXELS resizes)")


def read_one(path: Path, size: int | None, channels: int) -> Array:
    """Return one file as uint8 (channels, h, w), as ``read`` does. Raises InputError where it is no whole image."""
    try:
        return decode(path.read_bytes(), size, channels)
    except Exception as error:  # each image format has its own exceptions
        raise InputError(path, "file", _reason(error), f"8-bit {', '.join(FORMATS)}") from None


def decode(content: bytes, size: int | None, channels: int) -> Array:
    """Return an image as uint8 (channels, h, w), upright, scaled and cropped to ``size``."""
    mode = "L" if channels == 1 else "RGB"
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        if picture.mode.startswith(("I", "F")):  # Pillow would cut their values off at 255
            raise ValueError("more than 8 bits a channel")
        upright = ImageOps.exif_transpose(picture).convert(mode)
    if size is not None:
        upright = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(upright)).transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own text holds an address in memory
        return "no image"
    text = str(getattr(error, "strerror", None) or error)
    return text.splitlines()[0] if text else type(error).__name__
