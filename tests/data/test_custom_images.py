"""Custom OOD sets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import SMOKE
from image_stages import TEST, Stages, below, settings, warnings
from pictures import GOOD, as_folder, as_zip, contents, picture

from mistakes.config import params
from mistakes.data import (
    pictures,
)
from mistakes.errors import InputError

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
    for name, n in (("flat", 6), ("deep", 7), ("uniform", 30)):
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
            "expected other names than photographs, digits, glyphs, uniform, gaussian, inverted, ",
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
