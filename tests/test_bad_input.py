"""Bad input: one line that names file, key and value; a non-zero exit; nothing half-written."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mistakes import artifacts, datasets, params, sources
from mistakes.errors import InputError

ROOT = Path(__file__).parents[1]
SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()


def run(folder: Path, stage: str, *paths: str, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    clean = (
        {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC"))} | {"PYTHONPATH": str(ROOT)} | env
    )
    command = [sys.executable, "-m", f"stages.{stage}", *paths]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMOKE)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  layers: 2\n", "  layers: 2\n  depth: 3\n", ["params.yaml", "flow.depth", "unknown"]),
        ("  layers: 2\n", "", ["params.yaml", "flow.layers", "missing"]),
        ("  layers: 2\n", "  layers: two\n", ["params.yaml", "flow.layers", "'two'", "integer"]),
        ("learning_rate: 1.0e-3", "learning_rate: 1e-3", ["flow.learning_rate", "'1e-3'", "number"]),
        ("alpha: 0.05", "alpha: 5", ["hypotheses.alpha", "5", "less than 1"]),
        ("kind: maf", "kind: glow", ["flow.kind", "'glow'", "maf"]),
        ("device: auto", "device: [", ["params.yaml", "line"]),
    ],
)
def test_parameters(folder: Path, old: str, new: str, words: list[str]) -> None:
    assert old in SMOKE
    (folder / "params.yaml").write_text(SMOKE.replace(old, new))
    refused(run(folder, "raw", "data/raw"), *words)
    assert not (folder / "data").exists()


def test_missing_parameter_file_and_wrong_arguments(tmp_path: Path) -> None:
    refused(run(tmp_path, "raw", "data/raw"), "params.yaml", "a readable file")
    refused(run(tmp_path, "raw"), "command line", "python -m stages.raw OUT")


def test_a_store_that_cannot_be_written(folder: Path) -> None:
    (folder / "data").write_text("a file where a folder should be")
    refused(run(folder, "raw", "data/raw"), "data")


def test_wrong_checksum_names_every_source_tried(folder: Path) -> None:
    (folder / "disk").mkdir()
    (folder / "disk" / "train-images-idx3-ubyte.gz").write_bytes(b"not the data")
    (folder / "params.yaml").write_text(SMOKE.replace("dataset: digits", "dataset: fashion_mnist"))
    nothing = {"MISTAKES_RAW": str(folder / "disk"), "PATH": str(folder), "http_proxy": "http://127.0.0.1:9"}
    done = run(folder, "raw", "data/raw", **nothing)
    refused(done, "train-images-idx3-ubyte.gz", "MISTAKES_RAW=", "SHA-256", "fashion-mnist.s3", "Debian", "apt-get")
    assert not list(folder.glob("data/**/*.gz"))


def test_files_on_disk_are_taken_where_they_are_right(folder: Path) -> None:
    run(folder, "raw", "data/raw")
    good = (folder / "data/raw/digits.csv.gz").read_bytes()
    (folder / "disk").mkdir()
    (folder / "disk" / "digits.csv.gz").write_bytes(good)
    done = run(folder, "raw", "data/again", MISTAKES_RAW=str(folder / "disk"))
    assert done.returncode == 0, done.stderr
    assert (folder / "data/again/digits.csv.gz").read_bytes() == good


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:40] + b"\0\0\0\0" + b[44:], lambda b: b"x" + b])
def test_corrupt_or_truncated_raw_file(folder: Path, damage) -> None:
    run(folder, "raw", "data/raw")
    path = folder / "data/raw/digits.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(run(folder, "images", "data/raw", "data/images"), "digits.csv.gz", "corrupt")
    assert not (folder / "data/images").exists()


def test_features_with_nan_and_truncated_arrays(folder: Path) -> None:
    z = np.zeros((30, 4), np.float32)
    z[17, 2] = np.nan
    for split in ("fit", "val"):
        artifacts.save_arrays(folder / split, features=z)
    refused(run(folder, "flow", "fit", "val", "data/flow/smoke"), "fit/features.npy", "row 17", "NaN")
    whole = (folder / "fit" / "features.npy").read_bytes()
    (folder / "fit" / "features.npy").write_bytes(whole[:-100])
    refused(run(folder, "flow", "fit", "val", "data/flow/smoke"), "fit/features.npy", "unreadable")
    refused(run(folder, "flow", "nowhere", "val", "data/flow/smoke"), "nowhere/features.npy", "missing")
    assert not (folder / "data/flow/smoke").exists()
    assert not list(folder.rglob("*.partial"))


def test_a_diverging_flow_names_the_parameter(folder: Path, rng: np.random.Generator) -> None:
    for split in ("fit", "val"):
        artifacts.save_arrays(folder / split, features=rng.normal(size=(300, 12)).astype(np.float32))
    text = SMOKE.replace("learning_rate: 1.0e-3", "learning_rate: 1.0e+6").replace(
        "gradient_clip: 5.0", "gradient_clip: 1.0e+9"
    )
    (folder / "params.yaml").write_text(text)
    done = run(folder, "flow", "fit", "val", "data/flow/smoke")
    refused(done, "params.yaml", "flow.learning_rate", "1000000.0", "diverged")
    assert not (folder / "data/flow/smoke").exists()


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


# raw files in their true format


def idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_files_are_read_and_split_without_overlap(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {}
    for part, n in (("train", 60), ("t10k", 20)):
        arrays[part] = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", arrays[part][0])
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", arrays[part][1])
    dataset = datasets.read("fashion_mnist", tmp_path)
    assert np.array_equal(dataset.train.inputs["images"][:, 0], arrays["train"][0])
    assert np.array_equal(dataset.test.labels, arrays["t10k"][1])
    parts = datasets.split(dataset, 10, 15, None, 0)
    assert {name: len(part.labels) for name, part in parts.items()} == {"fit": 35, "val": 10, "cal": 15, "test": 20}
    indices = np.concatenate([part.indices for part in parts.values()])
    assert len(set(indices)) == 80
    with pytest.raises(InputError, match="images.val \\+ images.cal is 60, expected less than the 60"):
        datasets.split(dataset, 30, 30, None, 0)
    idx(tmp_path / "t10k-labels-idx1-ubyte.gz", arrays["t10k"][1][:-1])
    with pytest.raises(InputError, match="test labels is 19, expected 20"):
        datasets.read("fashion_mnist", tmp_path)


def test_debian_s_files_become_the_original_bytes(tmp_path: Path) -> None:
    """The real package, where a Debian machine reaches its mirror."""
    try:
        sources._unpack_debian("dataset-fashion-mnist", tmp_path / "debian")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Debian's package cannot be had here: {error}")
    for name, checksum in sources.CHECKSUMS["fashion_mnist"].items():
        sources._debian(name, tmp_path / name, tmp_path)
        sources._verify(tmp_path / name, checksum)


def test_parameters_are_frozen() -> None:
    values = params.parse(SMOKE)
    with pytest.raises(ValueError, match="frozen"):
        values.flow.layers = 3
