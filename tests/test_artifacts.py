"""Corrupt arrays, tensors, tables, and pickles."""

from pathlib import Path

import numpy as np
import pytest
from commands import SMOKE, refused, run

from mistakes import artifacts
from mistakes.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMOKE)
    return tmp_path


def test_features_with_nan_and_truncated_arrays(folder: Path) -> None:
    z = np.zeros((30, 4), np.float32)
    z[17, 2] = np.nan
    for split in ("fit", "val"):
        artifacts.save_arrays(folder / split, features=z, logits=np.eye(30, dtype=np.float32))
    refused(
        run(folder, "flow", "fit", "val", "data/flow/smoke"), "fit/features.npy", "row 17", "NaN"
    )
    whole = (folder / "fit" / "features.npy").read_bytes()
    (folder / "fit" / "features.npy").write_bytes(whole[:-100])
    refused(run(folder, "flow", "fit", "val", "data/flow/smoke"), "fit/features.npy", "unreadable")
    refused(
        run(folder, "flow", "nowhere", "val", "data/flow/smoke"), "nowhere/features.npy", "missing"
    )
    assert not (folder / "data/flow/smoke").exists()
    assert not list(folder.rglob("*.partial"))


def test_corrupt_tensors_tables_and_pickles(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage")
    with pytest.raises(InputError, match=r"model.safetensors: content is unreadable"):
        artifacts.load_tensors(tmp_path / "model.safetensors")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"t.parquet: content is unreadable"):
        artifacts.load_table(tmp_path / "t.parquet")
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"x.npy: content is unreadable .*Python objects"):
        artifacts.load_arrays(tmp_path, "x")
