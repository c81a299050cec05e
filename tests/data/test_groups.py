"""Groups of images or rows stay in one split."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from image_stages import Stages, loaded, settings
from pictures import as_folder, picture

from mistakes.data import (
    datasets,
    feature_files,
    groups,
)
from mistakes.errors import InputError

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
