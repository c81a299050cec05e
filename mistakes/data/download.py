"""Where raw data files come from. Every source yields the same bytes, checked against pinned
checksums.

SHA-256 where it is known to us. The others are the MD5 sums that torchvision pins, or, for the
binary version of CIFAR, that its authors publish: they find damage and mix-ups, but no forgery.
"""

import functools
import hashlib
import http.client
import os
import shutil
import struct
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mistakes.errors import InputError

# an environment variable, since where the bytes lie must not change what the results are
ON_DISK = "MISTAKES_RAW"
TIMEOUT = 15  # seconds without an answer from a mirror

_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CHECKSUMS = {  # of each file of a data set: algorithm:hexadecimal digits
    "fashion_mnist": dict(
        zip(
            _IDX,
            (
                "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            strict=True,
        )
    ),
    "mnist": dict(
        zip(
            _IDX,
            (
                "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "md5:d53e105ee54ea40749a09fcbcd1e9432",
                "md5:9fb629c4189551a2d022fa330f9573f3",
                "md5:ec29112dd5afa0611ce80d1b7f02629c",
            ),
            strict=True,
        )
    ),
    "kmnist": dict(
        zip(
            _IDX,
            (
                "md5:bdb82020997e1d708af4cf47b453dcf7",
                "md5:e144d726b3acfaa3e44228e80efcd344",
                "md5:5c965bf0a639b31b8f53240b1b52f4d7",
                "md5:7320c461ea6c1c855c0b718fb2a4b134",
            ),
            strict=True,
        )
    ),
    "cifar10": {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    "cifar100": {"cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8"},
    "svhn": {
        "train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3",
    },
    "digits": {
        "digits.csv.gz": "sha256:09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
    },
}
SHAPES = {  # channels, height and width of the images
    **dict.fromkeys(("fashion_mnist", "mnist", "kmnist"), (1, 28, 28)),
    **dict.fromkeys(("cifar10", "cifar100", "svhn"), (3, 32, 32)),
    "digits": (1, 8, 8),
}
TORCHVISION = {
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}

# what it is called, and how it puts file NAME at a path
Source = tuple[str, Callable[[str, Path], None]]


def fetch(dataset: str, folder: Path, test_only: bool = False) -> dict[str, dict[str, str]]:
    """Put the verified files of ``dataset`` (a key of CHECKSUMS) into ``folder``; return them by
    algorithm and name.

    Each file is tried from each source in turn: files on disk (environment variable MISTAKES_RAW, a
    folder), then the data set's own sources. test_only : leave out files that hold nothing but
    training images. Raises InputError naming every source tried and why it failed; a file with
    another checksum is never kept.
    """
    verified: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, checksum in CHECKSUMS[dataset].items():
            if test_only and name.startswith("train"):
                continue
            _fetch_one(dataset, name, checksum, folder, Path(scratch))
            algorithm, digest = checksum.split(":")
            verified.setdefault(algorithm, {})[name] = digest
    return verified


def _fetch_one(dataset: str, name: str, checksum: str, folder: Path, scratch: Path) -> None:
    failures = []
    for called, get in _sources(dataset, scratch):
        temporary = scratch / "candidate"
        temporary.unlink(missing_ok=True)
        try:
            get(name, temporary)
            _verify(temporary, checksum)
        except (
            OSError,
            ValueError,
            http.client.HTTPException,
            subprocess.SubprocessError,
        ) as error:
            failures.append(f"{called} ({_reason(error)})")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(temporary, folder / name)
            return
    expected = (
        f"one source to answer (or {ON_DISK}=FOLDER with the file). Tried: {'; '.join(failures)}"
    )
    raise InputError(dataset, name, "not to be had", expected)


def _verify(path: Path, checksum: str) -> None:
    algorithm, digest = checksum.split(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        called = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
        raise ValueError(
            f"{called} {found[:12]}… instead of {digest[:12]}…, {path.stat().st_size} bytes"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return error.stderr.decode(errors="replace").strip().splitlines()[-1]
    return getattr(error, "strerror", None) or str(getattr(error, "reason", error))


def _sources(dataset: str, scratch: Path) -> list[Source]:
    sources: list[Source] = []
    if os.environ.get(ON_DISK):
        # several data sets have files of the same names: a folder for each, as here or as
        # torchvision makes them
        disk = Path(os.environ[ON_DISK])
        own = [disk / dataset, disk / TORCHVISION.get(dataset, dataset) / "raw"]
        for folder in [*(folder for folder in own if folder.is_dir()), disk]:
            sources.append((f"{ON_DISK}={folder}", functools.partial(_copy, folder)))
    if dataset == "digits":
        return [*sources, ("the scikit-learn package", _scikit_learn)]
    sources += [(mirror, functools.partial(_download, mirror)) for mirror in _mirrors(dataset)]
    if dataset == "fashion_mnist":
        sources.append(
            ("Debian's package dataset-fashion-mnist", lambda name, to: _debian(name, to, scratch))
        )
    return sources


def _mirrors(dataset: str) -> list[str]:
    """Return the addresses that torchvision knows, up to the name of a file."""
    from torchvision import datasets

    known = getattr(datasets, TORCHVISION[dataset])
    if hasattr(known, "mirrors"):
        return list(known.mirrors)
    url = known.url if hasattr(known, "url") else known.split_list["test"][0]
    return [url.rpartition("/")[0] + "/"]


def _copy(folder: Path, name: str, to: Path) -> None:
    shutil.copyfile(folder / name, to)


def _scikit_learn(name: str, to: Path) -> None:
    from importlib.resources import files

    to.write_bytes(files("sklearn.datasets.data").joinpath(name).read_bytes())


def _download(mirror: str, name: str, to: Path) -> None:
    with urllib.request.urlopen(mirror + name, timeout=TIMEOUT) as answer, to.open("wb") as file:
        shutil.copyfileobj(answer, file)


def _debian(name: str, to: Path, scratch: Path) -> None:
    """Take a file from Debian's package, without being root, and give it back the gzip header of
    the original.

    Debian strips name and time from the header (reproducible builds); the compressed data are the
    same.
    """
    unpacked = scratch / "debian"
    if not unpacked.exists():
        _unpack_debian("dataset-fashion-mnist", unpacked)
    stripped = (unpacked / "usr/share/datasets/fashion-mnist" / name).read_bytes()
    seconds = 1504176606 if name.startswith("train") else 1504176627
    header = (
        b"\x1f\x8b\x08\x08"
        + struct.pack("<I", seconds)
        + b"\x00\x03"
        + name.removesuffix(".gz").encode()
        + b"\0"
    )
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
    # a machine without package lists: fetch them into a folder of our own
    except subprocess.CalledProcessError:
        own = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={lists}")
        run("apt-get", *own, "update")
        run("apt-get", *own, "download", package)
    for archive in download.glob("*.deb"):
        run("dpkg", "-x", str(archive), str(to))
