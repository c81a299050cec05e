"""Custom images as people have them: splits in folders, files of all kinds, groups, rare classes,
copies, own OOD sets.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import SMOKE, run
from pictures import GOOD, SETTINGS, as_folder, as_tar, as_zip, contents, picture
from PIL import Image

from mistakes.config import params
from mistakes.data import (
    datasets,
    duplicates,
    feature_files,
    groups,
    image_folder,
    pictures,
    splitting,
)
from mistakes.errors import InputError

Stages = Callable[..., str]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Run a stage in tmp_path, where the test is too; return what it printed, or its one line of
    refusal.
    """
    monkeypatch.chdir(tmp_path)

    def in_it(name: str, *paths: str, refused: bool = False) -> str:
        done = run(tmp_path, name, *paths)
        assert done.returncode == (2 if refused else 0), done
        if not refused:
            return done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert not Path(paths[-1]).exists()
        return line

    return in_it


def settings(
    images: dict[str, object] | None = None, sets: list[str] | None = None, **raw: object
) -> None:
    values = yaml.safe_load(SMOKE) | {"raw": SETTINGS | raw}
    values["images"] |= {"val": 2, "cal": 3, "test": 2} | (images or {})
    values["ood"] |= {"sets": sets or ["uniform"], "images": 30}
    Path("params.yaml").write_text(yaml.safe_dump(values))


def loaded(split: str, key: str, root: str = "data/images") -> np.ndarray:
    return np.load(f"{root}/{split}/{key}.npy")


def warnings(folder: str = "data/images") -> str:
    return "\n".join(json.loads(Path(folder, "warnings.json").read_text()))


def below(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}/{name}": content for name, content in files.items()}


TEST = {
    f"{name}/{i}.png": picture(100 + 10 * label + i)
    for label, name in enumerate(("bird", "cat"))
    for i in range(3)
}


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


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_picture_of_an_animation_or_of_pages_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = pictures.decode(
        encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), None, 3
    )
    assert image.shape == (3, 9, 12)
    assert (image == np.array([255, 0, 0], np.uint8)[:, None, None]).all()


DEEP = (np.arange(12 * 9, dtype=np.uint16) * 600).reshape(9, 12)  # up to 64,200


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(DEEP), "PNG"),
        encoded(Image.fromarray(DEEP), "TIFF"),
        encoded(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
        b"P5\n12 9\n65535\n" + DEEP.astype(">u2").tobytes(),
    ],
)
def test_16_bit_grey_is_scaled_and_not_cut_off(content: bytes) -> None:
    expected = np.rint(DEEP / 257).astype(np.uint8)
    assert expected.max() == 250
    assert np.array_equal(pictures.decode(content, None, 1), expected[None])
    assert np.array_equal(pictures.decode(content, None, 3), expected[None].repeat(3, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(DEEP), "PNG", exif=exif)
    assert np.array_equal(pictures.decode(turned, None, 1)[0], np.rot90(expected, -1))


def test_values_of_unknown_scale_are_refused_and_dark_ones_told(tmp_path: Path) -> None:
    for dtype in (np.int32, np.float32):
        with pytest.raises(ValueError, match="32 bits a channel, of unknown scale"):
            pictures.decode(encoded(Image.fromarray(DEEP.astype(dtype)), "TIFF"), None, 1)
    masks = {
        f"{name}/{i}.png": encoded(Image.new("L", (12, 12), i), "PNG")
        for name in "ab"
        for i in range(2)
    }
    found = image_folder.read(as_folder(tmp_path, masks), None, 1, "refuse")
    assert found.warnings == (
        "no pixel is brighter than 1 of 255: are the values scaled otherwise?",
    )


def test_transparency_lies_on_white_and_other_modes_are_themselves() -> None:
    palette = Image.new("P", (12, 9), 0)
    palette.putpalette([10, 20, 30] * 256)
    half = Image.new("RGBA", (12, 9), (10, 20, 30, 0))
    for content, expected in (
        (encoded(palette, "PNG"), [10, 20, 30]),
        (encoded(palette, "PNG", transparency=0), [255, 255, 255]),
        (encoded(palette, "GIF", transparency=0), [255, 255, 255]),
        (encoded(half, "PNG"), [255, 255, 255]),
        (encoded(Image.new("LA", (12, 9), (40, 255)), "PNG"), [40, 40, 40]),
        (encoded(Image.new("1", (12, 9), 1), "PNG"), [255, 255, 255]),
        (encoded(Image.new("CMYK", (12, 9), (0, 255, 255, 0)), "JPEG"), [255, 0, 0]),
    ):
        image = pictures.decode(content, None, 3).astype(int)
        assert np.abs(image - np.array(expected)[:, None, None]).max() <= 2


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


# groups

PATIENTS = {f"{('bird', 'cat')[n % 2]}/p{n % 7:02}_{n}.png": picture(n) for n in range(42)}


@pytest.mark.parametrize("by", [r"p(\d+)_", r"/(p..)", "groups.csv"])
def test_no_group_stands_in_two_splits(tmp_path: Path, stage: Stages, by: str) -> None:
    as_folder(tmp_path / "own", PATIENTS)
    rows = [f"{name},{name.split('/')[1][:3]}" for name in PATIENTS]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *rows, "unknown.png,x"]))
    settings({"val": 5, "cal": 5, "test": 7}, groups=by)
    stage("raw", "data/raw")
    stage("images", "data/raw", "data/images")
    files = pd.read_csv("data/raw/train/files.csv")["file"]
    stands: dict[str, set[str]] = {}
    sizes = {}
    for split in ("fit", "val", "cal", "test"):
        indices = loaded(split, "indices")
        sizes[split] = len(indices)
        for index in indices:
            stands.setdefault(files[index].split("/")[1][:3], set()).add(split)
    assert len(stands) == 7
    assert all(len(splits) == 1 for splits in stands.values()), stands
    assert sizes == {"fit": 18, "val": 6, "cal": 6, "test": 12}  # whole patients, of 6 images each
    assert len(np.unique(loaded("fit", "groups"))) == 3


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("[", "groups: '[' is not a regular expression"),
        (
            r"x(\d+)",
            (
                "groups: 'x(\\\\d+)' is not found in 42 of 42 file names of train, such as"
                " bird/p00_0.png"
            ),
        ),
        ("nowhere.csv", "nowhere.csv: missing; expected a CSV with the columns file and group"),
        ("wrong.csv", "wrong.csv: has the columns name, group; expected file and group"),
        (
            "short.csv",
            "short.csv: has no group for 41 of 42 files of train, such as bird/p00_14.png",
        ),
        ("two.csv", "two.csv: has more than one group for 1 of its files, such as bird/p00_0.png"),
        ("empty.csv", "empty.csv: cannot be read as a CSV"),
    ],
)
def test_groups_that_are_not_told(tmp_path: Path, stage: Stages, by: str, words: str) -> None:
    as_folder(tmp_path / "own", PATIENTS)
    for name, text in (
        ("wrong", "name,group\n"),
        ("short", "file,group\nbird/p00_0.png,a\n"),
        ("empty", ""),
        ("two", "file,group\nbird/p00_0.png,a\nbird/p00_0.png,b\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
    settings(groups=by)
    assert words in stage("raw", "data/raw", refused=True)


def test_a_group_in_train_and_in_test_and_too_few_groups(tmp_path: Path, stage: Stages) -> None:
    as_folder(tmp_path / "own", PATIENTS)
    as_folder(tmp_path / "test", {"bird/p03_99.png": picture(1), "cat/p77_98.png": picture(2)})
    settings({"test": None}, test="test", groups=r"p(\d+)_")
    assert "groups: groups that stand in train and in test (1): 03" in stage(
        "raw", "data/raw", refused=True
    )
    settings({"val": 15, "cal": 15, "test": 7}, groups=r"p(\d+)_")
    stage("raw", "data/raw")
    line = stage("images", "data/raw", "data/no", refused=True)
    said = "test, val and cal: whole groups leave too few images: 0 fit, 18 val, 12 cal, 12 test "
    assert said + "(the training images have 7 groups, the largest of 6 images)" in line


@pytest.mark.parametrize(
    "names", [np.arange(60) // 4, np.array([f"video {n // 4}" for n in range(60)])]
)
def test_groups_of_features(tmp_path: Path, rng: np.random.Generator, names: np.ndarray) -> None:
    whole = {
        "features": rng.normal(size=(60, 5)),
        "logits": rng.normal(size=(60, 3)),
        "labels": np.arange(60) % 3,
    }
    np.savez(tmp_path / "train.npz", **whole, groups=names)
    parts, _ = feature_files.read(
        {"train": tmp_path / "train.npz"}, {"far": tmp_path / "train.npz"}, None
    )
    train = parts["train"]
    part = datasets.Labelled(
        {"features": train["features"]}, train["labels"], np.arange(60), train["groups"]
    )
    found = datasets.split(datasets.Dataset(part, None, tuple("abc")), 8, 8, 10, 0)
    seen = [set((one.indices // 4).tolist()) for one in found.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 15
    pd.DataFrame(
        {"labels": whole["labels"], "groups": names}
        | {
            f"{key}_{i}": whole[key][:, i]
            for key in ("features", "logits")
            for i in range(whole[key].shape[1])
        }
    ).to_parquet(tmp_path / "train.parquet")
    again, _ = feature_files.read({"train": tmp_path / "train.parquet"}, {}, None)
    assert np.array_equal(again["train"]["groups"], train["groups"])

    with pytest.raises(InputError, match="groups that stand in train and in test .15.: "):
        feature_files.read(
            {"train": tmp_path / "train.npz", "test": tmp_path / "train.npz"}, {}, None
        )
    np.savez(tmp_path / "none.npz", **whole)
    with pytest.raises(
        InputError, match=r"none.npz: has groups, or lacks them, unlike the first part"
    ):
        feature_files.read(
            {"train": tmp_path / "train.npz", "test": tmp_path / "none.npz"}, {}, None
        )
    np.savez(tmp_path / "bad.npz", **whole, groups=rng.normal(size=60))
    with pytest.raises(
        InputError, match=r"groups is float64 \(60,\), expected whole numbers or text"
    ):
        feature_files.read({"train": tmp_path / "bad.npz"}, {}, None)


def test_groups_of_files_may_have_several_parentheses_and_names_of_parts(tmp_path: Path) -> None:
    files = {"train": ("a/x1_s1.png",), "test": ("a/x1_s1.png",)}
    assert groups.of_files(r"x(\d)_s(\d)", files)["train"] == ["1/1"]
    assert groups.of_files(r"x\d", files)["test"] == ["x1"]
    (tmp_path / "g.csv").write_text("file,group\ntrain/a/x1_s1.png,1\na/x1_s1.png,2\n")
    assert groups.of_files(str(tmp_path / "g.csv"), files) == {"train": ["1"], "test": ["2"]}


# rare classes


@pytest.mark.parametrize("rare", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_a_rare_class_is_in_every_split_that_it_can_be_in(rare: int, seed: int) -> None:
    labels = np.repeat([0, 1, 2], [200, 150, rare])
    part = datasets.Labelled({"images": np.zeros((len(labels), 1))}, labels, np.arange(len(labels)))
    found = datasets.split(datasets.Dataset(part, None, ("a", "b", "rare")), 40, 30, 20, seed)
    assert {name: len(one.labels) for name, one in found.items()} == {
        "fit": 260 + rare,
        "val": 40,
        "cal": 30,
        "test": 20,
    }
    indices = np.concatenate([one.indices for one in found.values()])
    assert sorted(indices) == list(range(len(labels)))
    assert all((labels[one.indices] == one.labels).all() for one in found.values())
    n = {name: int((one.labels == 2).sum()) for name, one in found.items()}
    assert sum(count > 0 for count in n.values()) == min(rare, 4), n
    assert n["fit"] >= 1  # the classifier sees it
    assert rare < 2 or n["test"] >= 1
    (said,) = splitting.few({name: one.labels for name, one in found.items()}, ("a", "b", "rare"))
    assert said.startswith("few inputs of class rare: ")


def test_a_split_that_lacks_no_class_is_the_drawn_one() -> None:
    labels = np.arange(1000) % 10
    part = datasets.Labelled({"images": np.zeros((1000, 1))}, labels, np.arange(1000))
    found = datasets.split(datasets.Dataset(part, None, tuple("abcdefghij")), 150, 150, 200, 3)
    order = np.random.default_rng(3).permutation(1000)
    drawn = [found[name].indices for name in ("test", "val", "cal", "fit")]
    assert np.array_equal(np.concatenate(drawn), order)
    assert (
        splitting.few({name: one.labels for name, one in found.items()}, tuple("abcdefghij")) == []
    )


def test_a_class_with_three_images_is_told_by_name_in_stage_images(
    tmp_path: Path, stage: Stages
) -> None:
    many = {
        f"{name}/{i}.png": picture(1000 * n + i)
        for n, name in enumerate(("bird", "cat"))
        for i in range(20)
    }
    as_folder(tmp_path / "own", many | {f"yak/{i}.png": picture(5000 + i) for i in range(3)})
    settings({"val": 6, "cal": 6, "test": 6})
    stage("raw", "data/raw")
    printed = stage("images", "data/raw", "data/images")
    told = "few inputs of class yak: 1 in fit, 1 in val, none in cal, 1 in test"
    assert told in printed
    assert warnings() == told


def test_many_rare_classes_are_told_in_few_lines() -> None:
    said = splitting.few({"fit": np.arange(40), "val": np.arange(40)}, [f"c{i}" for i in range(40)])
    assert len(said) == 11
    assert said[-1] == "few inputs of 30 more classes"


# copies


def test_copies_in_several_splits_and_classes_are_counted(tmp_path: Path, stage: Stages) -> None:
    files = dict(GOOD)
    files["cat/copy.png"] = GOOD["bird/0.png"]  # another label
    files["bird/other.bmp"] = encoded(
        Image.open(io.BytesIO(GOOD["bird/1.png"])), "BMP"
    )  # the same pixels
    as_folder(tmp_path / "own", files)
    as_folder(tmp_path / "test", {"bird/1.png": GOOD["bird/2.png"], "cat/9.png": picture(900)})
    settings({"test": None}, test="test")
    stage("raw", "data/raw")
    stage("images", "data/raw", "data/images")
    classes, splits = [line for line in warnings().splitlines() if "SHA-256" in line][::-1]
    assert classes.startswith("inputs that stand in more than one class, the same by SHA-256 (1): ")
    assert {"bird/0.png", "cat/copy.png"} == {word for word in classes.split() if "/" in word}
    assert splits.startswith("inputs that stand in more than one split, the same by SHA-256 (")
    assert "bird/2.png" in splits


def test_copies_of_rows_and_none_of_different_rows(rng: np.random.Generator) -> None:
    z, labels = rng.normal(size=(30, 4)), np.arange(30) % 3
    z[20], labels[20] = z[5], labels[5]
    whole = datasets.Labelled({"features": z, "logits": z[:, :2]}, labels, np.arange(30))
    parts = {"fit": whole.take(np.arange(15)), "val": whole.take(np.arange(15, 30))}
    assert duplicates.between(parts, lambda index: f"row {index}") == [
        "inputs that stand in more than one split, the same by SHA-256 (1): row 5 (fit) is row 20"
        " (val)"
    ]
    assert (
        duplicates.between({"fit": whole}, str) == []
    )  # a copy in the same split and class does no harm
    near = datasets.Labelled(whole.inputs, np.full(30, 7), np.arange(30))
    (said,) = duplicates.between(
        {"fit": whole.take(np.arange(3)), "novel_classes": near.take(np.array([1]))}, str
    )
    assert said.startswith(
        "inputs that stand in more than one split, the same by SHA-256 (1): 1 (fit)"
    )


# own OOD sets


def test_own_ood_sets_of_any_layout_take_the_form_of_the_images(
    tmp_path: Path, stage: Stages
) -> None:
    as_folder(tmp_path / "own", GOOD)
    flat = {f"{i}.png": picture(300 + i, 30, 20) for i in range(5)} | {
        "notes.txt": b"x",
        "grey.png": picture(1, mode="L"),
    }
    as_folder(tmp_path / "flat", flat)
    as_zip(tmp_path / "deep.zip", below("train", TEST) | {"test/x/y.gif": picture(800, kind="GIF")})
    settings(
        {}, ["flat", "deep", "uniform"], ood={"flat": "flat", "deep": "deep.zip", "spare": "flat"}
    )
    printed = stage("raw", "data/raw")
    assert "raw: flat: 6 images" in printed
    stage("images", "data/raw", "data/images")
    assert (
        "raw.ood.flat: files that are no images of a class are left out (1): notes.txt"
        in warnings()
    )
    stage("ood", "data/images/test", "data/raw", "data/ood")
    assert json.loads(Path("data/ood/metrics.json").read_text()) == {
        "n.flat": 6,
        "n.deep": 7,
        "n.uniform": 30,
    }
    for name, n in (("flat", 6), ("deep", 7)):
        assert np.load(f"data/ood/sets/{name}/images.npy").shape == (n, 3, 12, 12)
    assert (
        warnings("data/ood")
        == "the set spare of raw.ood is not used, for ood.sets does not name it"
    )
    assert pd.read_csv("data/raw/ood/deep/files.csv")["file"].tolist()[-1] == "train/cat/2.png"


def test_own_ood_sets_change_nothing_in_the_splits(tmp_path: Path, stage: Stages) -> None:
    as_folder(tmp_path / "own", GOOD)
    as_folder(tmp_path / "far", TEST)
    for number, ood in enumerate(({}, {"far": "far"})):
        settings({}, [*ood, "uniform"], ood=ood)
        stage("raw", f"data/raw{number}")
        stage("images", f"data/raw{number}", f"data/images{number}")
    assert contents(tmp_path / "data/images0") == contents(tmp_path / "data/images1")


def test_images_of_the_data_set_in_an_ood_set_are_counted(tmp_path: Path, stage: Stages) -> None:
    as_folder(tmp_path / "own", GOOD)
    as_folder(tmp_path / "far", TEST | {"copy.png": GOOD["bird/1.png"]})
    settings({}, ["far"], ood={"far": "far"}, size=12)
    stage("raw", "data/raw")
    stage("images", "data/raw", "data/images")
    stage("ood", "data/images/test", "data/raw", "data/ood")
    assert (
        warnings("data/ood")
        == "inputs of the OOD set far that are inputs of the data set too, by SHA-256: 1 of 7"
    )


def test_own_ood_sets_beside_a_fetched_data_set(tmp_path: Path, stage: Stages) -> None:
    as_folder(tmp_path / "far", TEST | {"torn.png": GOOD["bird/1.png"][:90]})
    settings({"val": 150, "cal": 300, "test": 500}, ["far", "uniform"])
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["raw"] = {"dataset": "digits", "ood": {"far": "far"}}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage("raw", "data/raw")
    stage("images", "data/raw", "data/images")
    assert "raw.ood.far: files that cannot be read are left out (1): torn.png" in warnings()
    stage("ood", "data/images/test", "data/raw", "data/ood")
    made = np.load("data/ood/sets/far/images.npy")
    assert made.shape == (6, 1, 8, 8)
    first = pictures.decode(TEST["bird/0.png"], (8, 8), 1)
    assert np.array_equal(made[0], first)


@pytest.mark.parametrize(
    ("ood", "words"),
    [
        (
            {"far": "nowhere"},
            "nowhere: missing; expected a folder of images, or a zip or tar of one",
        ),
        ({"far": "empty"}, "empty: no image that can be read among 1 files"),
        ({"far": "torn"}, "torn: 1 of 1 files cannot be read: 1.png (not an image)"),
        (
            {"far": None},
            'raw.ood is {"far": null}, expected a path for far, since only fashion_mnist, mnist',
        ),
        (
            {"glyphs": "far"},
            "expected other names than digits, glyphs, uniform, gaussian, inverted, patch_shuffled",
        ),
        (
            {"test": "far"},
            "expected other names than fit, test, novel_classes, which are sets already",
        ),
        (
            {"pgd_02": "far"},
            "raw.ood.pgd_02 has the name of an attack or a corruption; give it another",
        ),
        (
            {"blur_3": "far"},
            "raw.ood.blur_3 has the name of an attack or a corruption; give it another",
        ),
        ({"a b": "far"}, "raw.ood has a key 'a b', but a name has letters, digits and _ only"),
        ({"far": 3}, "raw.ood.far is 3, expected text"),
        ("far", "raw.ood is 'far', expected a list"),
    ],
)
def test_own_ood_sets_that_cannot_be_taken(
    tmp_path: Path, stage: Stages, ood: object, words: str
) -> None:
    as_folder(tmp_path / "own", GOOD)
    as_folder(tmp_path, {"far/1.png": picture(1), "empty/1.txt": b"x", "torn/1.png": b"x"})
    settings({}, ["uniform"], ood=ood)
    assert words in stage("raw", "data/raw", refused=True)


def test_a_mapping_may_name_sets_to_be_fetched_and_paths() -> None:
    values = yaml.safe_load(SMOKE) | {
        "raw": {"dataset": "mnist", "ood": {"svhn": None, "far": "own/far"}}
    }
    values["ood"]["sets"] = ["svhn", "far", "uniform"]
    assert params.parse(yaml.safe_dump(values)).raw.ood == {"svhn": None, "far": "own/far"}
    with pytest.raises(InputError, match="raw.ood is .*expected other data sets than raw.dataset"):
        params.parse(
            yaml.safe_dump(values | {"raw": {"dataset": "svhn", "ood": {"svhn": None, "far": "x"}}})
        )


# siblings


def test_archives_of_windows_and_tables_of_spreadsheets(tmp_path: Path) -> None:
    as_zip(
        tmp_path / "own.zip", {name.replace("/", "\\"): content for name, content in GOOD.items()}
    )
    assert image_folder.read(tmp_path / "own.zip", None, 3, "refuse").classes == ("bird", "cat")
    (tmp_path / "g.csv").write_text("file,group\na/1.png,x\n", encoding="utf-8-sig")
    assert groups.of_files(str(tmp_path / "g.csv"), {"train": ("a/1.png",)}) == {"train": ["x"]}


def test_rows_of_features_in_an_ood_set_are_counted(
    tmp_path: Path, stage: Stages, rng: np.random.Generator
) -> None:
    whole = {"features": rng.normal(size=(60, 5)), "logits": rng.normal(size=(60, 3))}
    np.savez("train.npz", **whole, labels=np.arange(60) % 3)
    np.savez(
        "far.npz", **{key: np.concatenate([array[:4], -array]) for key, array in whole.items()}
    )
    values = yaml.safe_load(SMOKE) | {"classifiers": {"given": {"source": "features"}}}
    ood = {"far": "far.npz", "spare": "far.npz"}
    values["raw"] = {
        "dataset": "features",
        "parts": {"train": "train.npz"},
        "ood": ood,
        "classes": None,
    }
    values["images"] |= {"val": 10, "cal": 10, "test": 10}
    values["ood"]["sets"] = ["far"]
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage("raw", "data/raw")
    stage("images", "data/raw", "data/images")
    assert "SHA-256" not in warnings()
    stage("ood", "data/images/test", "data/raw", "data/ood")
    assert warnings("data/ood").splitlines() == [
        "the set spare of raw.ood is not used, for ood.sets does not name it",
        "inputs of the OOD set far that are inputs of the data set too, by SHA-256: 4 of 64",
    ]


def test_rare_classes_of_a_val_folder_go_to_val_and_cal() -> None:
    def part(labels: np.ndarray, first: int) -> datasets.Labelled:
        return datasets.Labelled(
            {"images": np.zeros((len(labels), 1))}, labels, first + np.arange(len(labels))
        )

    for seed in range(5):
        whole = datasets.Dataset(
            part(np.arange(60) % 3, 0),
            part(np.arange(9) % 3, 200),
            tuple("abc"),
            val=part(np.repeat([0, 1, 2], [30, 30, 2]), 100),
        )
        found = datasets.split(whole, 10, 10, None, seed)
        assert {split: int((found[split].labels == 2).sum()) for split in ("val", "cal")} == {
            "val": 1,
            "cal": 1,
        }
        assert set(found["fit"].indices) == set(range(60)) | (
            set(range(100, 162)) - set(found["val"].indices) - set(found["cal"].indices)
        )
