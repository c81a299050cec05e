"""Copies in several splits are counted."""

import io
from pathlib import Path

import numpy as np
import yaml
from commands import SMOKE
from image_stages import TEST, Stages, settings, warnings
from pictures import GOOD, as_folder, encoded, picture
from PIL import Image

from mistakes.data import (
    datasets,
    duplicates,
)

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
