"""The files of a folder, a zip or a tar, all in one form. Nothing is unpacked to disk."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from mistakes.errors import InputError

# a file and how to read it, or a folder (None)
Entry = tuple[PurePosixPath, Callable[[], bytes] | None]
HIDDEN = {
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}


def entries(path: Path, layout: str, stack: ExitStack) -> tuple[list[Entry], int]:
    """Return files and folders, in the order in which they are read fastest, and how many files are
    hidden.

    Hidden ones are left out.

    layout : what is expected at ``path``, for errors. stack : closes the archive, after the files
    have been read. Raises InputError where ``path`` is missing, of another kind or unreadable, a
    member of the archive is a link or lies outside of it, or a link leads back to a folder above
    it.
    """
    if not path.exists():
        raise InputError(path, f"missing; expected {layout}")
    try:
        if path.is_dir():
            found = list(_walk(path))
        elif zipfile.is_zipfile(path):
            found = _zip(stack.enter_context(zipfile.ZipFile(path)))
        elif tarfile.is_tarfile(path):
            found = _tar(stack.enter_context(tarfile.TarFile.open(path)), path)
        else:
            raise InputError(path, f"another kind of file; expected {layout}")
    except InputError:
        raise
    except Exception as error:  # each kind of archive and compression has its own exceptions
        raise InputError(path, f"unreadable ({reason(error)}); expected {layout}") from None
    for name, _ in found:
        if name.is_absolute() or ".." in name.parts:
            raise InputError(path, "member", str(name), "a path that stays inside the archive")
    shown = [(name, load) for name, load in found if name.parts and not hidden(name)]
    return shown, sum(load is not None for _, load in found) - sum(
        load is not None for _, load in shown
    )


def _walk(path: Path) -> Iterator[Entry]:
    def refuse(error: OSError) -> NoReturn:  # os.walk would leave out what it may not read
        raise error

    for root, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        relative = PurePosixPath(Path(root).relative_to(path).as_posix())
        folders.sort()
        for name in folders:
            if Path(root, name).is_symlink() and Path(root).resolve().is_relative_to(
                Path(root, name).resolve()
            ):
                raise InputError(Path(root, name), "a link that leads back to a folder above it")
        yield from ((relative / name, None) for name in folders)
        yield from ((relative / name, Path(root, name).read_bytes) for name in sorted(files))


def _zip(archive: zipfile.ZipFile) -> list[Entry]:
    return [
        (
            PurePosixPath(member.filename.replace("\\", "/")),
            None if member.is_dir() else partial(archive.read, member),
        )
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
            raise InputError(
                path, f"member {member.name}", "a link or device", "files and folders only"
            )
    return [
        (PurePosixPath(member.name), None if member.isdir() else partial(load, member))
        for member in members
    ]


def hidden(name: PurePosixPath) -> bool:
    """Tell what file managers add: .DS_Store and the like, __MACOSX in zips."""
    return name.name in {"Thumbs.db", "desktop.ini"} or any(
        p.startswith(".") or p in HIDDEN for p in name.parts
    )


def reason(error: Exception) -> str:
    """Return one line that says why a file could not be read."""
    text = str(getattr(error, "strerror", None) or error)
    return text.splitlines()[0] if text else type(error).__name__
