"""Rare classes reach the splits."""

from pathlib import Path

import numpy as np
import pytest
from image_stages import Stages, settings, warnings
from pictures import as_folder, picture

from mistakes.data import (
    datasets,
    splitting,
)

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
