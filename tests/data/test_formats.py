"""Data sets by name: readers on small files in the true formats, sources, and conversion of OOD
sets.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import SMOKE, refused, run
from pictures import idx
from PIL import Image
from scipy.io import savemat

from mistakes import artifacts
from mistakes.config import params, raw
from mistakes.data import datasets, download, formats, ood
from mistakes.errors import InputError

NAMES = download.TORCHVISION


def cifar(
    folder: Path, dataset: str, rng: np.random.Generator, n: int = 8
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the binary version: of each record the label bytes, then red, green and blue planes,
    row by row.
    """
    archive, inside, names, before, members = formats.CIFAR[dataset]
    files, parts = {names: b"cat\ndog\nfrog\n\n"}, {}
    for part, of_part in members.items():
        images = rng.integers(0, 256, (n * len(of_part), 3, 32, 32), np.uint8)
        labels = rng.integers(0, 3, n * len(of_part)).astype(np.uint8)
        coarse = [np.full(len(labels), 77, np.uint8)] * (before - 1)
        rows = np.column_stack([*coarse, labels, images.reshape(len(labels), -1)])
        files |= {
            name: part.tobytes()
            for name, part in zip(of_part, np.split(rows, len(of_part)), strict=True)
        }
        parts[part] = images, labels
    write_tar(folder / archive, {f"{inside}/{name}": content for name, content in files.items()})
    return parts


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write(
    folder: Path, dataset: str, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write a small data set in its true format; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.save_json(folder / "dataset.json", {"dataset": dataset})
    if dataset in formats.CIFAR:
        return cifar(folder, dataset, rng)
    parts = {}
    for part, n in (("train", 60), ("test", 20)):
        size = 32 if dataset == "svhn" else 28
        channels = 3 if dataset == "svhn" else 1
        parts[part] = (
            rng.integers(0, 256, (n, channels, size, size), np.uint8),
            rng.integers(0, 10, n),
        )
        images, labels = parts[part]
        if dataset == "svhn":
            y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
            savemat(
                folder / f"{part}_32x32.mat",
                {"X": images.transpose(2, 3, 1, 0), "y": y},
                do_compression=True,
            )
        else:
            prefix = {"train": "train", "test": "t10k"}[part]
            idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[:, 0])
            idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    return parts


@pytest.mark.parametrize("dataset", NAMES)
def test_every_format_is_read_as_it_was_written(
    dataset: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    written = write(tmp_path, dataset, rng)
    found = datasets.read(dataset, tmp_path)
    for part, (images, labels) in (("train", written["train"]), ("test", written["test"])):
        assert np.array_equal(getattr(found, part).inputs["images"], images)
        assert np.array_equal(getattr(found, part).labels, labels)
    assert len(found.classes) == (3 if dataset in formats.CIFAR else 10)
    assert len({*found.train.indices, *found.test.indices}) == len(found.train.labels) + len(
        found.test.labels
    )


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"x" + b, lambda b: b"", None]
)
def test_truncated_corrupt_and_missing_files_are_refused(
    dataset: str, damage, tmp_path: Path, rng
) -> None:
    write(tmp_path, dataset, rng)
    for path in (
        sorted(tmp_path.glob("t*.*z"))
        + sorted(tmp_path.glob("*.mat"))
        + sorted(tmp_path.glob("cifar*"))
    ):
        whole = path.read_bytes()
        path.unlink() if damage is None else path.write_bytes(damage(whole))
        expected = (
            "file is 'missing'" if damage is None else "content is corrupt|magic number is ''"
        )
        with pytest.raises(InputError, match=expected) as caught:
            datasets.read(dataset, tmp_path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    datasets.read(dataset, tmp_path)


def test_cifar_archives_of_another_form(tmp_path: Path, rng: np.random.Generator) -> None:
    cifar(tmp_path, "cifar10", rng)
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    name = "cifar-10-batches-bin/test_batch.bin"
    for changed, words in (
        ({**files, name: files[name][:-1]}, "24583 bytes, expected records of 3073"),
        (
            {key: content for key, content in files.items() if key != name},
            "test_batch.bin is 'missing'",
        ),
        ({**files, name: b"\x03" + files[name][1:]}, "label of test image 0 is 3, expected 0 to 2"),
        ({**files, name: b""}, "test labels is 0"),
    ):
        write_tar(path, changed)
        with pytest.raises(InputError, match=words):
            formats.read("cifar10", tmp_path, "test")
    path.write_bytes(gzip.compress(b"no tar" * 200))
    with pytest.raises(InputError, match="corrupt"):
        formats.read("cifar10", tmp_path, "test")


def test_svhn_files_of_another_form(tmp_path: Path) -> None:
    good = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((4, 1), np.uint8)}
    for change, words in (
        ({"X": good["X"].astype(float)}, "X is .*float64"),
        ({"X": good["X"][:8]}, r"X is .*\(8, 32, 3, 4\)"),
        ({"y": good["y"] * 11}, "not all 1 to 10"),
        ({"y": good["y"][:3]}, "labels is 3, expected 4"),
        ({"y": None}, "content is corrupt"),
    ):
        values = {key: value for key, value in (good | change).items() if value is not None}
        savemat(tmp_path / "test_32x32.mat", values)
        with pytest.raises(InputError, match=words):
            formats.read("svhn", tmp_path, "test")


def test_the_pinned_md5_sums_are_torchvision_s() -> None:
    from torchvision import datasets as known

    for name in ("mnist", "kmnist"):
        pinned = {
            file: checksum.removeprefix("md5:")
            for file, checksum in download.CHECKSUMS[name].items()
        }
        assert pinned == dict(getattr(known, NAMES[name]).resources)
    for part in ("train", "test"):
        _, file, md5 = known.SVHN.split_list[part]
        assert download.CHECKSUMS["svhn"][file] == f"md5:{md5}"
    assert set(params.parse(SMOKE).raw.ood) <= set(NAMES)
    assert set(NAMES) == set(raw.OodDatasets.__args__[0].__args__)


@pytest.mark.parametrize("dataset", ["kmnist", "cifar100", "svhn"])  # Fashion-MNIST: test_bad_input
def test_offline_every_place_tried_is_named(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(SMOKE.replace("dataset: digits", f"dataset: {dataset}"))
    files = list(download.CHECKSUMS[dataset])
    for folder in ("disk", f"disk/{dataset}", f"disk/{NAMES[dataset]}/raw"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / files[0]).write_bytes(b"not the data")
    nothing = {"MISTAKES_RAW": str(tmp_path / "disk"), "PATH": str(tmp_path)}
    nothing |= {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    done = run(tmp_path, "raw", "data/raw", **nothing)
    places = [
        f"MISTAKES_RAW={tmp_path}/disk (MD5",
        f"disk/{dataset} (",
        "/raw (",
        *download._mirrors(dataset),
    ]
    refused(done, dataset, files[0], *places)
    assert not (tmp_path / "data/raw").exists()


def test_a_folder_for_each_data_set_is_looked_in_first(tmp_path: Path) -> None:
    download.fetch("digits", tmp_path / "own" / "digits")
    (tmp_path / "own" / "digits.csv.gz").write_bytes(b"of another data set")
    (tmp_path / "params.yaml").write_text(SMOKE)
    assert run(tmp_path, "raw", "data/raw", MISTAKES_RAW=str(tmp_path / "own")).returncode == 0
    written = (tmp_path / "data/raw/digits.csv.gz").read_bytes()
    assert written == (tmp_path / "own/digits/digits.csv.gz").read_bytes()


def test_ood_sets_need_no_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"small"
    md5 = "md5:eb5c1399a871211c7e7ed732d15e3a8b"
    monkeypatch.setitem(
        download.CHECKSUMS, "svhn", {"train_32x32.mat": "md5:" + 32 * "0", "test_32x32.mat": md5}
    )
    monkeypatch.setenv("MISTAKES_RAW", str(tmp_path))
    (tmp_path / "test_32x32.mat").write_bytes(content)
    assert download.fetch("svhn", tmp_path / "out", test_only=True) == {
        "md5": {"test_32x32.mat": md5[4:]}
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test_32x32.mat"]


def test_another_data_set_takes_the_form_of_the_images(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    grey, colour = np.zeros((9, 1, 28, 28), np.uint8), np.zeros((9, 3, 32, 32), np.uint8)
    same = rng.integers(0, 256, (30, 1, 28, 28), np.uint8)
    taken = ood.resembling("mnist", same, grey, 10, 0)
    rows = [int(np.flatnonzero((same == image).all((1, 2, 3)))[0]) for image in taken]
    assert len(set(rows)) == 10
    assert rows == sorted(rows)  # unchanged, and none twice
    assert np.array_equal(ood.resembling("mnist", same, grey, 10, 0), taken)
    assert not np.array_equal(ood.resembling("mnist", same, grey, 10, 1), taken)
    assert len(ood.resembling("mnist", same, grey, 99, 0)) == 30

    flat = np.tile(np.array([200, 100, 50], np.uint8)[:, None, None], (2, 1, 32, 32)).reshape(
        2, 3, 32, 32
    )
    as_grey = ood.resembling("svhn", flat, grey, 2, 0)
    assert as_grey.shape == (2, 1, 28, 28)
    assert (as_grey == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()  # ITU-R 601
    as_colour = ood.resembling("mnist", same[:1], colour, 1, 0)
    assert as_colour.shape == (1, 3, 32, 32)
    expected = np.asarray(Image.fromarray(same[0, 0]).resize((32, 32), Image.Resampling.BILINEAR))
    assert (as_colour[0] == expected).all()


def test_named_sets_reach_the_stage_ood(tmp_path: Path, rng: np.random.Generator) -> None:
    values = yaml.safe_load(SMOKE)
    values["raw"] = {"dataset": "kmnist", "ood": ["svhn", "cifar10"]}
    values["ood"] |= {"sets": ["svhn", "cifar10", "uniform"], "images": 12}
    values["images"] |= {"val": 10, "cal": 10, "test": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    for folder, name in (
        ("data/raw", "kmnist"),
        ("data/raw/ood/svhn", "svhn"),
        ("data/raw/ood/cifar10", "cifar10"),
    ):
        write(tmp_path / folder, name, rng)
    assert run(tmp_path, "images", "data/raw", "data/images").returncode == 0
    assert json.loads((tmp_path / "data/images/classes.json").read_text())[2] == "su"
    done = run(tmp_path, "ood", "data/images/test", "data/raw", "data/ood")
    assert done.returncode == 0, done.stderr
    for name, n in (("svhn", 12), ("cifar10", 8), ("uniform", 12)):
        assert np.load(tmp_path / f"data/ood/sets/{name}/images.npy").shape == (n, 1, 28, 28)
    (tmp_path / "data/raw/ood/svhn/test_32x32.mat").write_bytes(b"MATLAB 5.0")
    refused(
        run(tmp_path, "ood", "data/images/test", "data/raw", "data/no"),
        "ood/svhn/test_32x32.mat",
        "corrupt",
    )


@pytest.mark.parametrize(
    ("raw", "sets", "words"),
    [
        ({"dataset": "mnist", "ood": []}, ["svhn"], ["ood.sets", "'svhn'", "raw.ood fetches"]),
        (
            {"dataset": "mnist", "ood": ["mnist"]},
            ["uniform"],
            ["raw.ood", "other data sets than raw.dataset"],
        ),
        ({"dataset": "mnist", "ood": ["svhn", "svhn"]}, ["svhn"], ["raw.ood", "each once"]),
        (
            {"dataset": "mnist", "ood": ["imagenet"]},
            ["uniform"],
            ["raw.ood.0", "'imagenet'", "'svhn'"],
        ),
        ({"dataset": "mnist"}, ["uniform"], ["raw.ood", "missing"]),
        ({"dataset": "mnist", "ood": []}, ["noise"], ["ood.sets", "'noise'", "uniform"]),
    ],
)
def test_parameters_of_named_sets(
    raw: dict[str, object], sets: list[str], words: list[str]
) -> None:
    values = yaml.safe_load(SMOKE) | {"raw": raw}
    values["ood"] |= {"sets": sets}
    with pytest.raises(InputError) as caught:
        params.parse(yaml.safe_dump(values))
    assert all(word in str(caught.value) for word in words), caught.value
