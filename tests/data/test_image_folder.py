"""Custom images: folders, zips and tars, good and bad, through stages raw and images."""

import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import ROOT, SMOKE, refused, run
from pictures import GOOD, SETTINGS, as_folder, as_tar, as_zip, contents, picture, pixels
from PIL import Image

from mistakes.config import params
from mistakes.data import image_folder
from mistakes.errors import InputError
from mistakes.pipeline import overlays


def settings(folder: Path, images: dict[str, object] | None = None, **raw: object) -> None:
    values = yaml.safe_load(SMOKE) | {"raw": SETTINGS | raw}
    values["images"] |= {"val": 2, "cal": 3, "test": 2} | (images or {})
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def test_a_folder_a_zip_and_a_tar_give_the_same_bytes_and_reach_the_splits(tmp_path: Path) -> None:
    junk = {".DS_Store": b"x", "bird/Thumbs.db": b"x", "bird/.hidden.png": b"x"}
    backwards = dict(reversed(GOOD.items()))
    as_folder(tmp_path / "own", GOOD | junk)
    as_zip(
        tmp_path / "own.zip",
        {f"top/{name}": content for name, content in (backwards | junk).items()},
    )
    as_tar(tmp_path / "own.tar.gz", {f"./{name}": content for name, content in backwards.items()})
    made = []
    for train in ("own", "own.zip", str(tmp_path / "own.tar.gz")):
        settings(tmp_path, train=train)
        done = run(tmp_path, "raw", f"data/raw-{len(made)}")
        assert done.returncode == 0, done.stderr
        made.append(contents(tmp_path / f"data/raw-{len(made)}"))
    assert made[0] == made[1] == made[2]
    assert set(made[0]) == {
        "dataset.json",
        "train/images.npy",
        "train/labels.npy",
        "train/files.csv",
    }

    done = run(tmp_path, "images", "data/raw-0", "data/images")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "data/images/metrics.json").read_text())
    assert metrics == {
        "n.fit": 5,
        "n.val": 2,
        "n.cal": 3,
        "n.test": 2,
        "n.novel_classes": 0,
        "n.skipped": 0,
    }
    assert json.loads((tmp_path / "data/images/classes.json").read_text()) == ["bird", "cat"]
    rows = (tmp_path / "data/raw-0/train/files.csv").read_text().split()[1:]
    seen = []
    for split in ("fit", "val", "cal", "test"):
        part = [
            np.load(tmp_path / "data/images" / split / f"{key}.npy")
            for key in ("images", "labels", "indices")
        ]
        for image, label, index in zip(*part, strict=True):
            name, sha256 = rows[index].split(",")
            assert np.array_equal(image, pixels(GOOD[name]))
            assert name.startswith(("bird", "cat")[label])
            assert sha256 == hashlib.sha256(GOOD[name]).hexdigest()
            seen.append(name)
    assert sorted(seen) == sorted(GOOD)


def test_own_test_images_and_jpeg_are_kept_apart(tmp_path: Path) -> None:
    as_tar(tmp_path / "train.tar", GOOD)
    test = {
        f"{name}/{i}.jpg": picture(90 + i, kind="JPEG")
        for name in ("cat", "bird")
        for i in range(2)
    }
    as_zip(tmp_path / "test.zip", test)
    settings(tmp_path, train="train.tar", test="test.zip", images={"test": None})
    assert run(tmp_path, "raw", "data/raw").returncode == 0
    assert run(tmp_path, "images", "data/raw", "data/images").returncode == 0
    images, labels, indices = (
        np.load(tmp_path / f"data/images/test/{k}.npy") for k in ("images", "labels", "indices")
    )
    assert labels.tolist() == [0, 0, 1, 1]
    assert indices.tolist() == [12, 13, 14, 15]
    assert all(
        np.array_equal(a, pixels(b))
        for a, b in zip(images, (test[name] for name in sorted(test)), strict=True)
    )
    settings(tmp_path, images={"test": None})  # no test images of its own, and no number to draw
    as_folder(tmp_path / "own", GOOD)
    assert run(tmp_path, "raw", "data/alone").returncode == 0
    refused(run(tmp_path, "images", "data/alone", "data/no"), "images.test", "a number")


def test_images_are_scaled_by_the_shorter_side_and_cropped_at_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = (200, 100, 50)  # the square in the middle
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "PNG")
    as_folder(tmp_path, {"a/wide.png": file.getvalue(), "b/tall.webp": picture(1, 30, 50, "WEBP")})
    colour = image_folder.read(tmp_path, 10, 3, "refuse")
    assert colour.images.shape == (2, 3, 10, 10)
    middle = np.s_[
        0, :, :, 2:-2
    ]  # without the columns that the resampling filter mixes with what was cropped
    assert (colour.images[middle] == np.array([200, 100, 50], np.uint8)[:, None, None]).all()
    grey = image_folder.read(tmp_path, 16, 1, "refuse")
    assert grey.images.shape == (2, 1, 16, 16)
    assert (grey.images[middle] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()  # ITU-R 601
    with pytest.raises(
        InputError, match=r"tall.webp: size is 30 x 50, expected 40 x 20 pixels.*raw.size"
    ):
        image_folder.read(tmp_path, None, 3, "refuse")


def test_a_photograph_stands_upright_and_every_mode_becomes_what_is_asked(tmp_path: Path) -> None:
    lying = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    as_folder(
        tmp_path, {"a/lying.png": file.getvalue(), "b/palette.png": picture(1, 9, 12, mode="P")}
    )
    as_folder(
        tmp_path,
        {"b/grey.png": picture(1, 9, 12, mode="L"), "b/bits.png": picture(1, 9, 12, mode="1")},
    )
    as_folder(tmp_path, {"b/cmyk.jpg": picture(1, 9, 12, "JPEG", "CMYK")})
    images = image_folder.read(tmp_path, None, 3, "refuse").images
    assert images.shape == (5, 3, 12, 9)
    assert np.array_equal(images[0], np.rot90(np.asarray(lying), -1).transpose(2, 0, 1))


BAD = {
    "bird/text.jpg": b"no image at all",
    "cat/torn.png": GOOD["cat/1.png"][:150],
    "cat/nothing.png": b"",
    "cat/vector.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n",
}


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((12, 12), 40_000, np.int32)).save(file, "TIFF")
    return file.getvalue()


def test_corrupt_files_are_named_and_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    bad = BAD | {"bird/deep.tiff": deep()}
    as_zip(tmp_path / "own.zip", GOOD | bad)
    settings(tmp_path, train="own.zip")
    done = run(tmp_path, "raw", "data/raw")
    refused(
        done, "own.zip: 5 of 17 files cannot be read: ", "raw.corrupt: skip leaves them out", *bad
    )
    assert (
        "bird/deep.tiff (32 bits a channel, of unknown scale), bird/text.jpg (not an image)"
        in done.stderr
    )
    assert "own.zip: 2 classes: bird (8), cat (9)" in done.stdout
    assert not (tmp_path / "data/raw").exists()

    settings(tmp_path, train="own.zip", corrupt="skip")
    done = run(tmp_path, "raw", "data/raw")
    assert done.returncode == 0, done.stderr
    assert (
        "raw.train: files that cannot be read are left out (5): bird/deep.tiff, bird/text.jpg"
        in done.stderr
    )
    assert "own.zip: 2 classes: bird (8), cat (9)" in done.stdout
    assert json.loads((tmp_path / "data/raw/dataset.json").read_text())["skipped"] == {
        "train": sorted(bad)
    }
    run(tmp_path, "images", "data/raw", "data/images")
    assert json.loads((tmp_path / "data/images/metrics.json").read_text())["n.skipped"] == 5
    good = image_folder.read(as_folder(tmp_path / "own", GOOD), None, 3, "refuse")
    for key in ("images", "labels"):
        assert np.array_equal(np.load(tmp_path / f"data/raw/train/{key}.npy"), getattr(good, key))


def test_a_class_that_loses_all_its_images_is_refused(tmp_path: Path) -> None:
    as_folder(tmp_path, GOOD | {"dog/1.png": b"x"})
    with pytest.raises(InputError, match=r"class 'dog' is all corrupt"):
        image_folder.read(tmp_path, None, 3, "skip")
    many = as_folder(
        tmp_path / "many", {f"{name}/{i}.png": b"" for name in ("a", "b") for i in range(5)}
    )
    with pytest.raises(
        InputError, match=r"10 of 10 files .*: a/0.png .*a/4.png \(not an image\), \.\.\."
    ) as caught:
        image_folder.read(many, None, 3, "refuse")
    assert "b/" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"1.png": GOOD["cat/1.png"]}, ["no class folders", "a folder for each class"]),
        ({"cat/1.png": GOOD["cat/1.png"]}, ["one class folder", "cat (1)", "two or more"]),
        (
            {f"{name}/1.png": picture(1, 5, 7) for name in "ab"},
            ["a/1.png", "5 x 7", "8 pixels or more", "raw.size"],
        ),
    ],
)
def test_wrong_layouts(tmp_path: Path, files: dict[str, bytes], words: list[str]) -> None:
    settings(tmp_path)
    as_folder(tmp_path / "own", files)
    refused(run(tmp_path, "raw", "data/raw"), "own", *words)
    assert not (tmp_path / "data/raw").exists()


def test_an_empty_class_and_files_beside_the_classes(tmp_path: Path) -> None:
    as_folder(tmp_path / "own" / "set", GOOD)
    as_folder(tmp_path / "own", {"LICENSE": b"free"})
    assert image_folder.read(tmp_path / "own", None, 3, "refuse").ignored == ("LICENSE",)
    (tmp_path / "own" / "set" / "dog").mkdir()
    with pytest.raises(InputError, match=r"class 'dog' is an empty folder"):
        image_folder.read(tmp_path / "own", None, 3, "refuse")
    with zipfile.ZipFile(as_zip(tmp_path / "own.zip", GOOD), "a") as archive:
        archive.writestr("dog/", b"")
    with pytest.raises(InputError, match=r"class 'dog' is an empty folder"):
        image_folder.read(tmp_path / "own.zip", None, 3, "refuse")


def test_test_images_must_be_like_the_training_images(tmp_path: Path) -> None:
    as_folder(tmp_path / "own", GOOD)
    as_folder(tmp_path / "test", {"bird/1.png": GOOD["bird/1.png"], "dog/1.png": GOOD["cat/1.png"]})
    settings(tmp_path, test="test")
    done = run(tmp_path, "raw", "data/raw")
    said = (
        "test: has no folder for cat and has folders that are no class: dog; the classes of the"
        " training images are"
    )
    refused(done, said)
    like = image_folder.read(tmp_path / "own", None, 3, "refuse")
    other = as_folder(
        tmp_path / "other", {f"{name}/1.png": picture(1, 16, 16) for name in ("bird", "cat")}
    )
    with pytest.raises(InputError, match="bird/1.png: size is 16 x 16, expected 12 x 12"):
        image_folder.read(other, None, 3, "refuse", like)


def test_paths_that_are_no_archives(tmp_path: Path) -> None:
    settings(tmp_path, train="nowhere.zip")
    refused(run(tmp_path, "raw", "data/raw"), "nowhere.zip", "missing", "a zip or tar")
    (tmp_path / "own").write_bytes(b"something else")
    settings(tmp_path)
    refused(run(tmp_path, "raw", "data/raw"), "own", "another kind of file")
    whole = as_tar(tmp_path / "own.tar.gz", GOOD).read_bytes()
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) // 2])
    settings(tmp_path, train="torn.tar.gz")
    refused(run(tmp_path, "raw", "data/raw"), "torn.tar.gz", "unreadable")
    assert not (tmp_path / "data/raw").exists()


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "cat/../../outside.png"])
@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_members_outside_of_the_archive_are_refused(tmp_path: Path, pack, name: str) -> None:
    (tmp_path / "inside").mkdir()
    archive = pack(tmp_path / "inside" / "own", GOOD | {name: GOOD["cat/1.png"]})
    with pytest.raises(
        InputError, match=r"own: member is '.*outside.png', expected a path that stays inside"
    ):
        image_folder.read(archive, None, 3, "skip")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["own"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    as_tar(tmp_path / "own.tar", {"cat/1.png": b""}, type=kind, linkname="/etc/hostname")
    with pytest.raises(InputError, match=r"member cat/1.png is a link or device"):
        image_folder.read(tmp_path / "own.tar", None, 3, "skip")


def test_a_folder_that_may_not_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_folder(tmp_path, GOOD)
    scan = os.scandir

    def forbidden(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(InputError, match="unreadable .*Permission denied"):
        image_folder.read(tmp_path, None, 3, "skip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": ...}, ["raw.train", "missing"]),
        ({"corrupt": "ignore"}, ["raw.corrupt", "'ignore'", "'skip'"]),
        ({"size": 4}, ["raw.size", "4", "8 or more"]),
        ({"channels": 2}, ["raw.channels", "2", "1 or 3"]),
        ({"colour": True}, ["raw.colour", "unknown"]),
        ({"dataset": "digits"}, ["raw.", "unknown"]),
        ({"dataset": "imagenet"}, ["raw.dataset", "'imagenet'", "'image_folder'"]),
        ({"dataset": ...}, ["raw.dataset", "missing"]),
    ],
)
def test_parameters_of_own_images(change: dict[str, object], words: list[str]) -> None:
    section = {key: value for key, value in (SETTINGS | change).items() if value is not ...}
    with pytest.raises(InputError) as caught:
        params.parse(yaml.safe_dump(yaml.safe_load(SMOKE) | {"raw": section}))
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_cifar10_experiment_is_the_default_on_other_data() -> None:
    default = (ROOT / "params.yaml").read_text()
    overlay = {"cifar10": (ROOT / "experiments" / "cifar10.yaml").read_text()}
    default, cifar10 = (
        yaml.safe_load(text) for text in (default, overlays.applied(default, overlay))
    )
    assert cifar10["raw"] == SETTINGS | {"train": "cifar10/train.zip", "test": "cifar10/test.zip"}
    assert cifar10["ood"].pop("patch") == 8
    default["ood"].pop("patch")
    for values in (default, cifar10):
        del values["raw"], values["images"], values["classifiers"]
    assert cifar10 == default
