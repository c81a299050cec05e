"""Raw files: checksums, mirrors, files on disk, corrupt files."""

import subprocess
from pathlib import Path

import pytest
from commands import SMOKE, refused, run

from mistakes.data import download


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMOKE)
    return tmp_path


def test_wrong_checksum_names_every_source_tried(folder: Path) -> None:
    (folder / "disk").mkdir()
    (folder / "disk" / "train-images-idx3-ubyte.gz").write_bytes(b"not the data")
    (folder / "params.yaml").write_text(SMOKE.replace("dataset: digits", "dataset: fashion_mnist"))
    nothing = {
        "MISTAKES_RAW": str(folder / "disk"),
        "PATH": str(folder),
        "http_proxy": "http://127.0.0.1:9",
    }
    done = run(folder, "raw", "data/raw", **nothing)
    refused(
        done,
        "train-images-idx3-ubyte.gz",
        "MISTAKES_RAW=",
        "SHA-256",
        "fashion-mnist.s3",
        "Debian",
        "apt-get",
    )
    assert not list(folder.glob("data/**/*.gz"))


def test_files_on_disk_are_taken_where_they_are_right(folder: Path) -> None:
    run(folder, "raw", "data/raw")
    good = (folder / "data/raw/digits.csv.gz").read_bytes()
    (folder / "disk").mkdir()
    (folder / "disk" / "digits.csv.gz").write_bytes(good)
    done = run(folder, "raw", "data/again", MISTAKES_RAW=str(folder / "disk"))
    assert done.returncode == 0, done.stderr
    assert (folder / "data/again/digits.csv.gz").read_bytes() == good


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:40] + b"\0\0\0\0" + b[44:], lambda b: b"x" + b]
)
def test_corrupt_or_truncated_raw_file(folder: Path, damage) -> None:
    run(folder, "raw", "data/raw")
    path = folder / "data/raw/digits.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(run(folder, "images", "data/raw", "data/images"), "digits.csv.gz", "corrupt")
    assert not (folder / "data/images").exists()


def test_debian_s_files_become_the_original_bytes(tmp_path: Path) -> None:
    """The real package, where a Debian machine reaches its mirror."""
    try:
        download._unpack_debian("dataset-fashion-mnist", tmp_path / "debian")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Debian's package cannot be had here: {error}")
    for name, checksum in download.CHECKSUMS["fashion_mnist"].items():
        download._debian(name, tmp_path / name, tmp_path)
        download._verify(tmp_path / name, checksum)
