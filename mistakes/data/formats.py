"""Files of known data sets, in their published formats, to arrays. None of these formats holds
Python objects.
"""

import gzip
import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

from mistakes.artifacts import Array
from mistakes.errors import InputError

CLASSES = {
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "mnist": tuple("0123456789"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "svhn": tuple("0123456789"),
}
IDX = ("fashion_mnist", "mnist", "kmnist")
# archive, its folder, file of class names, bytes of labels before each image, files of train and
# test
CIFAR = {
    "cifar10": (
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        "batches.meta.txt",
        1,
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    ),
    "cifar100": (
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        "fine_label_names.txt",
        2,
        {"train": ["train.bin"], "test": ["test.bin"]},
    ),
}

# images uint8 (n, c, h, w), labels int64 (n,), names of the classes
Part = tuple[Array, Array, tuple[str, ...]]


def read(dataset: str, folder: Path, part: str) -> Part:
    """Read ``part``, train or test, of a data set from its files in ``folder``.

    Raises InputError where a file is missing, truncated, corrupt or of another format, or a label
    is out of range.
    """
    if dataset in CIFAR:
        path, (images, labels, classes) = folder / CIFAR[dataset][0], _cifar(dataset, folder, part)
    elif dataset in IDX:
        path, (images, labels), classes = folder, _mnist(folder, part), CLASSES[dataset]
    else:
        path, classes = folder / f"{part}_32x32.mat", CLASSES[dataset]
        images, labels = _svhn(path)
    if len(images) != len(labels) or not len(images):
        raise InputError(
            path,
            f"{part} labels",
            len(labels),
            f"{len(images)}, one for each image, and at least one",
        )
    labels = labels.astype(np.int64)
    if labels.max() >= len(classes):
        row = int(labels.argmax())
        raise InputError(
            path, f"label of {part} image {row}", int(labels[row]), f"0 to {len(classes) - 1}"
        )
    return images, labels, classes


def gunzip(path: Path) -> bytes:
    """Return the content of a gzip file; InputError if missing, truncated or corrupt."""
    try:
        return gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise InputError(path, "file", "missing", "a raw data file (stage raw)") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, "content", f"corrupt ({error})", "a whole gzip file") from None


def _mnist(folder: Path, part: str) -> tuple[Array, Array]:
    prefix = {"train": "train", "test": "t10k"}[part]
    images = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3)[:, None]
    return images, _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)


def _idx(path: Path, dimensions: int) -> Array:
    """Read an IDX file of bytes (magic number 0x00000800 + dimensions, big-endian sizes, data)."""
    content = gunzip(path)
    header = 4 + 4 * dimensions
    if len(content) < header or struct.unpack(">I", content[:4])[0] != 0x800 + dimensions:
        raise InputError(
            path, "magic number", content[:4].hex(), f"{0x800 + dimensions:08x} (IDX of bytes)"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != np.prod(shape):
        raise InputError(
            path, "data", f"{len(content) - header} bytes", f"{np.prod(shape)}, as the header says"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _cifar(dataset: str, folder: Path, part: str) -> Part:
    """Read the binary version: records of label bytes (of two the second is the class), then 32x32
    red, green, blue.
    """
    archive, inside, names, before, members = CIFAR[dataset]
    content = gunzip(folder / archive)
    try:
        with tarfile.TarFile(fileobj=io.BytesIO(content)) as tar:
            files = {
                member.name: tar.extractfile(member)
                for member in tar.getmembers()
                if member.isreg()
            }
            found = {name: file.read() for name, file in files.items() if file is not None}
    except tarfile.TarError as error:
        raise InputError(
            folder / archive, "content", f"corrupt ({error})", "a whole tar.gz file"
        ) from None
    records = []
    for name in [names, *members[part]]:
        if f"{inside}/{name}" not in found:
            raise InputError(
                folder / archive, f"member {inside}/{name}", "missing", "the binary version's files"
            )
    for name in members[part]:
        data, size = found[f"{inside}/{name}"], before + 3 * 32 * 32
        if len(data) % size:
            raise InputError(
                folder / archive,
                f"member {inside}/{name}",
                f"{len(data)} bytes",
                f"records of {size}",
            )
        records.append(np.frombuffer(data, np.uint8).reshape(-1, size))
    rows = np.concatenate(records)
    classes = tuple(found[f"{inside}/{names}"].decode("ascii", "replace").split())
    return rows[:, before:].reshape(-1, 3, 32, 32), rows[:, before - 1], classes


def _svhn(path: Path) -> tuple[Array, Array]:
    """Read a MATLAB 5 file: X uint8 (32, 32, 3, n), y (n, 1), where the class of digit 0 is 10."""
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(path, "file", "missing", "a raw data file (stage raw)")
    try:
        found = loadmat(path, variable_names=["X", "y"])
        images, labels = found["X"], found["y"].ravel()
    except Exception as error:  # the reader has many kinds of exceptions for a corrupt file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            path, "content", f"corrupt ({reason})", "a MATLAB 5 file with X and y"
        ) from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise InputError(path, "X", f"{images.dtype} {images.shape}", "uint8 (32, 32, 3, n)")
    if labels.dtype.kind not in "iu" or not ((labels >= 1) & (labels <= 10)).all():
        raise InputError(
            path,
            "y",
            f"{labels.dtype}, not all 1 to 10",
            "the classes 1 to 9, and 10 for the digit 0",
        )
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10
