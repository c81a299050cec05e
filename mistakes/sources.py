"""Where raw data files come from. Every source yields the same bytes, checked against pinned SHA-256 sums."""

import functools
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mistakes.errors import InputError

ON_DISK = "MISTAKES_RAW"  # an environment variable, since where the bytes lie must not change what the results are
TIMEOUT = 15  # seconds without an answer from a mirror

SHA256 = {
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    "digits": {"digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"},
}

Source = tuple[str, Callable[[str, Path], None]]  # what it is called, and how it puts file NAME at a path


def fetch(dataset: str, folder: Path) -> None:
    """Put the verified files of ``dataset`` (a key of SHA256) into ``folder``.

    Each file is tried from each source in turn: files on disk (environment variable MISTAKES_RAW, a folder), then the
    data set's own sources. Raises InputError naming every source tried and why it failed; a file with another
    checksum is never kept.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name, sha256 in SHA256[dataset].items():
            failures = []
            for called, get in _sources(dataset, Path(scratch)):
                temporary = Path(scratch, "candidate")
                temporary.unlink(missing_ok=True)
                try:
                    get(name, temporary)
                    _verify(temporary, sha256)
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    failures.append(f"{called} ({_reason(error)})")
                else:
                    shutil.copyfile(temporary, folder / name)
                    break
            else:
                tried = "; ".join(failures)
                expected = f"one source to answer (or {ON_DISK}=FOLDER with the file). Tried: {tried}"
                raise InputError(dataset, name, "not to be had", expected)


def _verify(path: Path, sha256: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"SHA-256 {found[:12]}… instead of {sha256[:12]}…, {path.stat().st_size} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return error.stderr.decode(errors="replace").strip().splitlines()[-1]
    return getattr(error, "strerror", None) or str(getattr(error, "reason", error))


def _sources(dataset: str, scratch: Path) -> list[Source]:
    sources: list[Source] = []
    if os.environ.get(ON_DISK):
        disk = Path(os.environ[ON_DISK])
        sources.append((f"{ON_DISK}={disk}", lambda name, to: _copy(disk / name, to)))
    if dataset == "digits":
        return [*sources, ("the scikit-learn package", _scikit_learn)]
    from torchvision.datasets import FashionMNIST

    for mirror in FashionMNIST.mirrors:
        sources.append((mirror, functools.partial(_download, mirror)))
    return [*sources, ("Debian's package dataset-fashion-mnist", lambda name, to: _debian(name, to, scratch))]


def _copy(source: Path, to: Path) -> None:
    to.write_bytes(source.read_bytes())


def _scikit_learn(name: str, to: Path) -> None:
    from importlib.resources import files

    to.write_bytes(files("sklearn.datasets.data").joinpath(name).read_bytes())


def _download(mirror: str, name: str, to: Path) -> None:
    with urllib.request.urlopen(mirror + name, timeout=TIMEOUT) as answer, to.open("wb") as file:
        shutil.copyfileobj(answer, file)


def _debian(name: str, to: Path, scratch: Path) -> None:
    """Take a file from Debian's package, without being root, and give it back the gzip header of the original.

    Debian strips name and time from the header (reproducible builds); the compressed data are the same.
    """
    unpacked = scratch / "debian"
    if not unpacked.exists():
        _unpack_debian("dataset-fashion-mnist", unpacked)
    stripped = (unpacked / "usr/share/datasets/fashion-mnist" / name).read_bytes()
    seconds = 1504176606 if name.startswith("train") else 1504176627
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", seconds) + b"\x00\x03" + name.removesuffix(".gz").encode() + b"\0"
    to.write_bytes(header + stripped[10:])


def _unpack_debian(package: str, to: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise OSError("needs apt-get and dpkg")
    download = to.with_name("download")
    lists = to.with_name("lists")
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    download.mkdir(exist_ok=True)

    def run(*command: str) -> None:
        subprocess.run(command, cwd=download, check=True, capture_output=True, timeout=300)

    try:
        run("apt-get", "download", package)
    except subprocess.CalledProcessError:  # a machine without package lists: fetch them into a folder of our own
        own = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={lists}")
        run("apt-get", *own, "update")
        run("apt-get", *own, "download", package)
    for archive in download.glob("*.deb"):
        run("dpkg", "-x", str(archive), str(to))
