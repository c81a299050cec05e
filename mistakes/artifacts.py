"""Files of artifacts: one save/load pair for each kind. No pickle is written or read.

Every writer writes under a temporary name and renames, so a file that exists is whole. Nothing
depends on time, host or path: the same content gives the same bytes.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mistakes.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import torch

Array = npt.NDArray[Any]


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block ends, and is
    removed when it fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, reader: Callable[[Path], Any], expected: str) -> Any:
    """Call ``reader``; a file that is missing or corrupt in any way becomes one InputError."""
    if not path.is_file():
        raise InputError(path, "file", "missing", expected)
    try:
        return reader(path)
    except Exception as error:  # each library has its own exceptions for a truncated file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(path, "content", f"unreadable ({reason})", expected) from None


def save_arrays(folder: Path, **arrays: Array) -> None:
    """Write each array (any shape) to ``folder/KEY.npy``."""
    for key, array in arrays.items():
        with renamed(folder / f"{key}.npy") as path, path.open("wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def save_batches(folder: Path, n: int, batches: Iterable[Mapping[str, Array]]) -> None:
    """Stream batches of named arrays, ``n`` rows in all, to ``folder/KEY.npy``; one batch is in
    memory at a time.
    """
    with ExitStack() as stack:
        files: dict[str, Array] = {}
        start = 0
        for batch in batches:
            for key, part in batch.items():
                if key not in files:
                    path = stack.enter_context(renamed(folder / f"{key}.npy"))
                    shape = (n, *part.shape[1:])
                    files[key] = np.lib.format.open_memmap(
                        path, mode="w+", dtype=part.dtype, shape=shape
                    )
                files[key][start : start + len(part)] = part
            start += len(next(iter(batch.values())))
        for file in files.values():
            file.flush()  # type: ignore[attr-defined]


def load_arrays(folder: Path, *keys: str) -> tuple[Array, ...]:
    """Return the arrays ``folder/KEY.npy``, memory-mapped read-only, all of one length.

    Raises InputError where one is missing, truncated, not an array, of another length, or holds NaN
    or infinity.
    """

    def read(path: Path) -> Array:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    arrays = tuple(_read(folder / f"{key}.npy", read, "an array in .npy format") for key in keys)
    for key, array in zip(keys, arrays, strict=True):
        if len(array) != len(arrays[0]):
            raise InputError(
                folder / f"{key}.npy",
                "length",
                len(array),
                f"{len(arrays[0])}, as in {keys[0]}.npy",
            )
        if array.dtype.kind == "f":
            refuse_non_finite(array, folder / f"{key}.npy")
    return arrays


def refuse_non_finite(array: Array, where: object) -> None:
    """Raise InputError, naming the first row, where ``array`` (n, ...) holds NaN or infinity."""
    for start in range(0, len(array), 10_000):
        finite = (
            np.isfinite(array[start : start + 10_000])
            .reshape(min(10_000, len(array) - start), -1)
            .all(axis=1)
        )
        if not finite.all():
            raise InputError(
                where, f"row {start + int(finite.argmin())}", "NaN or infinite", "finite numbers"
            )


def save_tensors(
    path: Path, tensors: "Mapping[str, torch.Tensor]", description: Mapping[str, Any]
) -> None:
    """Write named tensors and a JSON-able description to one safetensors file."""
    from safetensors.torch import save_file

    with renamed(path) as temporary:
        whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        save_file(
            whole, temporary, metadata={"description": json.dumps(description, sort_keys=True)}
        )


def load_tensors(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    """Return what save_tensors wrote, on the CPU. Raises InputError where the file is missing or
    corrupt.
    """

    def read(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["description"])
            return {key: file.get_tensor(key) for key in file.keys()}, description  # noqa: SIM118 (not a dict)

    tensors, description = _read(path, read, "a safetensors file that this project wrote")
    return tensors, description


def save_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table to Parquet."""
    with renamed(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def load_table(path: Path) -> "pd.DataFrame":
    """Read a Parquet table. Raises InputError where the file is missing or corrupt."""
    import pandas as pd

    return _read(path, pd.read_parquet, "a Parquet table")


def save_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write a table to CSV, for `dvc plots`."""
    with renamed(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def load_csv(path: Path) -> "pd.DataFrame":
    """Read a CSV table. Raises InputError where the file is missing or corrupt."""
    import pandas as pd

    return _read(path, pd.read_csv, "a CSV table")


def save_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; NaN and infinity are refused (ValueError), since JSON has no
    word for them.
    """
    with renamed(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def load_json(path: Path) -> Any:
    """Read JSON. Raises InputError where the file is missing or corrupt."""
    return _read(path, lambda file: json.loads(file.read_text()), "JSON")


def save_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    with renamed(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
