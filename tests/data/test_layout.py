"""Custom images as people have them: splits in folders, files of all kinds, groups, rare classes,
copies, own OOD sets.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import SMOKE
from image_stages import TEST, Stages, below, loaded, settings, warnings
from pictures import GOOD, as_folder, as_tar, as_zip, picture

from mistakes.config import params
from mistakes.data import (
    groups,
    image_folder,
)
from mistakes.errors import InputError

# folders of splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training_Set", "test_set"),
        ("train", "val"),
        ("data/images/train", "data/images/Validation"),
    ],
)
@pytest.mark.parametrize("pack", [as_folder, as_zip])
def test_folders_of_splits_are_understood(
    tmp_path: Path, stage: Stages, pack, train: str, test: str
) -> None:
    pack(
        tmp_path / "own",
        below(train, GOOD) | below(test, TEST) | {"README.md": b"text", "__MACOSX/._x/1.png": b"x"},
    )
    settings({"test": None})
    printed = stage("raw", "data/raw")
    assert f"splits of raw.train: train is {Path(train).name}, test is {Path(test).name}" in printed
    assert f"own/{Path(train).name}: 2 classes: bird (6), cat (6)" in printed
    assert f"own/{Path(test).name}: 2 classes: bird (3), cat (3)" in printed
    stage("images", "data/raw", "data/images")
    assert json.loads(Path("data/images/classes.json").read_text()) == ["bird", "cat"]
    assert {split: len(loaded(split, "labels")) for split in ("fit", "val", "cal", "test")} == {
        "fit": 7,
        "val": 2,
        "cal": 3,
        "test": 6,
    }


def test_val_of_three_splits_gives_val_and_cal_and_what_is_left_joins_fit(
    tmp_path: Path, stage: Stages
) -> None:
    val = {
        f"{name}/{i}.png": picture(200 + 10 * n + i)
        for n, name in enumerate(("bird", "cat"))
        for i in range(4)
    }
    as_folder(tmp_path / "own", below("train", GOOD) | below("val", val) | below("test", TEST))
    settings({"test": None})
    printed = stage("raw", "data/raw")
    assert "splits of raw.train: train is train, val is val, test is test" in printed
    stage("images", "data/raw", "data/images")
    assert {len(loaded(split, "labels")) for split in ("val", "cal")} == {2, 3}
    for split in ("val", "cal"):
        assert ((loaded(split, "indices") >= 12) & (loaded(split, "indices") < 20)).all()
    assert set(range(12)) < set(loaded("fit", "indices"))
    assert loaded("fit", "labels").shape == (15,)
    assert sorted(loaded("test", "indices")) == list(range(20, 26))
    settings({"val": 6, "test": None})
    line = stage("images", "data/raw", "data/no", refused=True)
    assert "val + cal is 9, expected at most the 8 images of raw.val" in line
    as_folder(tmp_path / "two", below("train", GOOD) | below("val", val))
    settings({"test": 4}, train="two", val="two/val")  # test is drawn from train then
    stage("raw", "data/raw1")
    stage("images", "data/raw1", "data/images1")
    assert (loaded("test", "indices", "data/images1") < 12).all()
    settings({"test": None}, val="own/test", train="own/train")  # by hand
    assert "own/test: 2 classes: bird (3), cat (3)" in stage("raw", "data/raw2")
    line = stage("images", "data/raw2", "data/no", refused=True)
    assert "test is None, expected a number" in line


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            below("train", GOOD) | below("test", TEST) | below("masks", TEST),
            (
                "which are classes and which are splits among masks (6), test (6), train (12)? If"
                " splits, give the"
            ),
        ),
        (
            below("train", GOOD) | below("training", GOOD) | below("test", TEST),
            "which are classes and which are splits among test (6), train (12), training (12)?",
        ),
        (
            {"train/1.png": GOOD["cat/1.png"], "test/1.png": GOOD["cat/2.png"]},
            (
                "holds test (1), train (1), and no folder for each class in them; if these are the"
                " classes, name them in"
            ),
        ),
        (
            below("val", GOOD) | below("test", TEST),
            "holds test (6), val (12), but no folder train with a folder for",
        ),
        (
            below("fold1", GOOD) | below("fold2", TEST),
            (
                "fold1 (12), fold2 (6) hold no images but the same folders (bird, cat): are they"
                " splits? Then give"
            ),
        ),
        (
            {
                f"{name}/{split}/1.png": GOOD["cat/1.png"]
                for name in ("bird", "cat")
                for split in ("train", "test")
            },
            "bird (2), cat (2) hold no images but the same folders (test, train)",
        ),
        (
            below("train/siteA", GOOD) | below("train/siteB", GOOD) | below("test", TEST),
            "own/train: siteA (12), siteB (12) hold no images but the same folders",
        ),
    ],
)
def test_other_sets_of_two_levels_are_refused(
    tmp_path: Path, stage: Stages, files, words: str
) -> None:
    as_folder(tmp_path / "own", files)
    settings()
    line = stage("raw", "data/raw", refused=True)
    assert words in line
    assert "own" in line


def test_a_split_without_labels_is_none_and_class_names_settle_every_doubt(
    tmp_path: Path, stage: Stages
) -> None:
    as_folder(tmp_path / "kaggle", below("train", GOOD) | {"test/1.png": picture(7)})
    settings(train="kaggle")
    printed = stage("raw", "data/raw")
    assert "splits of raw.train: train is train\n" in printed
    assert (
        "raw.train: folders beside the splits, without class folders, are left out: test (1)"
        in printed
    )
    assert not Path("data/raw/test").exists()
    as_folder(
        tmp_path / "notes",
        below("train", GOOD) | below("test", TEST) | {"annotations/a.json": b"x"},
    )
    settings({"test": None}, train="notes")
    assert "train is train, test is test" in stage("raw", "data/notes")
    settings({"test": None}, train="notes/train", val="notes")
    assert "holds annotations (1), test (6), train (12), but no folder val" in stage(
        "raw", "data/no", refused=True
    )
    as_folder(tmp_path / "own", {"train/1.png": picture(1), "test/1.png": picture(2)})
    settings(classes=["train", "test"])
    assert "own: 2 classes: train (1), test (1)" in stage("raw", "data/railway")
    as_folder(
        tmp_path / "vehicles", {f"{name}/1.png": picture(3) for name in ("train", "bus", "car")}
    )
    settings(train="vehicles")
    assert "vehicles: 3 classes: bus (1), car (1), train (1)" in stage("raw", "data/vehicles")
    settings(train="kaggle/train", test="kaggle")
    assert "kaggle: holds test (1), train (12), but no folder test" in stage(
        "raw", "data/no", refused=True
    )


def test_the_test_path_may_hold_the_splits_too(tmp_path: Path, stage: Stages) -> None:
    as_tar(tmp_path / "own.tar", below("train", GOOD) | below("test", TEST))
    settings(train="own.tar", test="own.tar")
    assert "own.tar/test: 2 classes: bird (3), cat (3)" in stage("raw", "data/raw")
    assert loaded("test", "labels", "data/raw").tolist() == [0, 0, 0, 1, 1, 1]


def test_wrappers_nested_folders_and_odd_names(tmp_path: Path, stage: Stages) -> None:
    files = {f"a/b/c/{name.replace('.png', '.PNG')}": content for name, content in GOOD.items()}
    junk = {
        "a/b/c/.ipynb_checkpoints/1.png": b"x",
        "a/b/c/bird/.ipynb_checkpoints/0.png": b"x",
        "a/__MACOSX/1.png": b"x",
    }
    as_folder(
        tmp_path / "own", files | junk | {"a/b/c/bird/left/deep/9.JPG": picture(77, kind="JPEG")}
    )
    settings()
    assert "own: 2 classes: bird (7 in 1 folders), cat (6)" in stage("raw", "data/raw")
    assert len(loaded("train", "labels", "data/raw")) == 13


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    as_folder(tmp_path, GOOD | {"notes/a.csv": b"1,2", "notes/b.txt": b"x"})
    with pytest.raises(InputError, match=r"class 'notes' has no image, but other files \(2\)"):
        image_folder.read(tmp_path, None, 3, "refuse")


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    as_folder(tmp_path, GOOD)
    (tmp_path / "bird" / "loop").symlink_to(tmp_path)
    with pytest.raises(InputError, match="bird/loop: a link that leads back to a folder above it"):
        image_folder.read(tmp_path, None, 3, "refuse")


# files of all kinds


def test_files_that_are_no_images_are_ignored_counted_and_told(
    tmp_path: Path, stage: Stages
) -> None:
    others = {
        "bird/notes.txt": b"text",
        "cat/labels.csv": b"a,b",
        "cat/LICENSE": b"free",
        "list.txt": b"all",
    }
    hidden = {"cat/.DS_Store": b"x", "bird/Thumbs.db": b"x"}
    unnamed = {
        "cat/photo": picture(50),
        "cat/0001.001": picture(51),
    }  # images without a suffix, or with a number
    as_folder(tmp_path / "own", GOOD | others | hidden | unnamed)
    settings()
    printed = stage("raw", "data/raw")
    told = (
        "raw.train: files that are no images of a class are left out (4): bird/notes.txt,"
        " cat/LICENSE, cat/labels.csv"
    )
    assert told in printed
    assert "2 classes: bird (6), cat (8) (hidden files passed over: 2)" in printed
    assert json.loads(Path("data/raw/dataset.json").read_text())["ignored"] == {
        "train": sorted(others)
    }
    stage("images", "data/raw", "data/images")
    assert told in warnings()


def test_corrupt_files_of_one_class_are_told_of_that_class(tmp_path: Path, stage: Stages) -> None:
    bad = {
        "cat/a.gif": b"not a gif",
        "cat/b.jpg": picture(1, kind="JPEG")[:400],
        "cat/c.heic": b"ftypheic",
    }
    as_folder(tmp_path / "own", GOOD | bad | {"cat/nothing.txt": b""})
    settings()
    line = stage("raw", "data/raw", refused=True)
    assert line.startswith(
        "error: own/cat: 3 of 9 files cannot be read: a.gif (not an image), b.jpg ("
    )
    assert "runcated" in line
    assert "c.heic (of a format that is not read); raw.corrupt: skip leaves them out" in line
    (tmp_path / "own" / "bird" / "d.bmp").write_bytes(b"BM")
    assert "own: 4 of 16 files cannot be read: bird/d.bmp (" in stage(
        "raw", "data/raw", refused=True
    )


# the order of classes

TWELVE = {f"{n}/{i}.png": picture(n * 10 + i) for n in range(1, 13) for i in range(2)}


def test_classes_fix_the_order_of_the_labels(tmp_path: Path, stage: Stages) -> None:
    as_folder(tmp_path / "own", TWELVE)
    settings({"val": 4, "cal": 4, "test": 4})
    assert "own: 12 classes: 1 (2), 10 (2), 11 (2), 12 (2), 2 (2)" in stage("raw", "data/sorted")
    settings(
        {"val": 4, "cal": 4, "test": 4}, classes=list(range(1, 13))
    )  # numbers, as YAML reads them
    assert "own: 12 classes: 1 (2), 2 (2), 3 (2)" in stage("raw", "data/raw")
    files = pd.read_csv("data/raw/train/files.csv")["file"]
    labels = loaded("train", "labels", "data/raw")
    assert [int(file.split("/")[0]) - 1 for file in files] == labels.tolist()
    stage("images", "data/raw", "data/images")
    assert json.loads(Path("data/images/classes.json").read_text()) == [
        str(n) for n in range(1, 13)
    ]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["cat", "bird", "dog"], "own: has no folder for dog; raw.classes are cat, bird, dog"),
        (
            ["cat", "dog"],
            (
                "own: has no folder for dog and has folders that are no class: bird; raw.classes"
                " are cat, dog"
            ),
        ),
        (
            ["cat", "bird", "cat"],
            'raw.classes is ["cat", "bird", "cat"], expected each class named once (cat is not)',
        ),
        (["cat"], "raw.classes"),
        ([True, "cat"], "raw.classes.0 is true, expected text"),
        ("cat", "raw.classes is 'cat', expected a list"),
    ],
)
def test_classes_that_are_not_the_folders(
    tmp_path: Path, stage: Stages, classes, words: str
) -> None:
    as_folder(tmp_path / "own", GOOD)
    settings(classes=classes)
    assert words in stage("raw", "data/raw", refused=True)


def test_class_names_of_features_may_be_numbers_and_no_twins() -> None:
    section = {"dataset": "features", "parts": {"train": "x"}, "ood": {}, "classes": [0, 1, 2]}
    values = yaml.safe_load(SMOKE) | {"classifiers": {"given": {"source": "features"}}}
    values["ood"]["sets"] = []
    assert params.parse(yaml.safe_dump(values | {"raw": section})).raw.classes == ["0", "1", "2"]
    with pytest.raises(InputError, match=r"each class named once \(1 is not\)"):
        params.parse(yaml.safe_dump(values | {"raw": section | {"classes": [1, 1]}}))


# siblings


def test_archives_of_windows_and_tables_of_spreadsheets(tmp_path: Path) -> None:
    as_zip(
        tmp_path / "own.zip", {name.replace("/", "\\"): content for name, content in GOOD.items()}
    )
    assert image_folder.read(tmp_path / "own.zip", None, 3, "refuse").classes == ("bird", "cat")
    (tmp_path / "g.csv").write_text("file,group\na/1.png,x\n", encoding="utf-8-sig")
    assert groups.of_files(str(tmp_path / "g.csv"), {"train": ("a/1.png",)}) == {"train": ["x"]}
