"""Data sets are read and split without overlap; novel classes are left out."""

from pathlib import Path

import numpy as np
import pytest
from pictures import idx

from mistakes.data import datasets
from mistakes.errors import ArgumentError, InputError


# raw files in their true format
def test_fashion_mnist_files_are_read_and_split_without_overlap(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    arrays = {}
    for part, n in (("train", 60), ("t10k", 20)):
        arrays[part] = (
            rng.integers(0, 256, (n, 28, 28), np.uint8),
            rng.integers(0, 10, n).astype(np.uint8),
        )
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", arrays[part][0])
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", arrays[part][1])
    dataset = datasets.read("fashion_mnist", tmp_path)
    assert np.array_equal(dataset.train.inputs["images"][:, 0], arrays["train"][0])
    assert np.array_equal(dataset.test.labels, arrays["t10k"][1])
    parts = datasets.split(dataset, 10, 15, None, 0)
    assert {name: len(part.labels) for name, part in parts.items()} == {
        "fit": 35,
        "val": 10,
        "cal": 15,
        "test": 20,
    }
    indices = np.concatenate([part.indices for part in parts.values()])
    assert len(set(indices)) == 80
    with pytest.raises(ArgumentError, match="val \\+ cal is 60, expected less than the 60"):
        datasets.split(dataset, 30, 30, None, 0)
    idx(tmp_path / "t10k-labels-idx1-ubyte.gz", arrays["t10k"][1][:-1])
    with pytest.raises(InputError, match="test labels is 19, expected 20"):
        datasets.read("fashion_mnist", tmp_path)


def digits(n: int = 60) -> datasets.Labelled:
    labels = np.arange(n) % 5
    return datasets.Labelled(
        {"images": np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)}, labels, np.arange(n)
    )


def test_novel_classes_are_nowhere_else_and_the_rest_is_renumbered() -> None:
    train, test = digits(), digits(20)
    dataset = datasets.Dataset(
        train, datasets.Labelled(test.inputs, test.labels, test.indices + 60), tuple("abcde")
    )
    left, near = datasets.hold_out(dataset, ["b", 3])
    assert left.classes == ("a", "c", "e")
    assert sorted(set(near.labels)) == [1, 3]
    assert (near.indices >= 60).all()  # test images
    assert len(near.labels) == 8
    parts = datasets.split(left, 10, 10, None, 0)
    for part in parts.values():
        original = np.concatenate([train.labels, test.labels])[part.indices]
        assert np.array_equal(
            np.array(list("abcde"))[original], np.array(left.classes)[part.labels]
        )
        assert not set(part.indices) & set(near.indices)
    assert sum(len(part.labels) for part in parts.values()) == 36 + 12
    _, without_test = datasets.hold_out(datasets.Dataset(train, None, tuple("abcde")), [0])
    assert len(without_test.labels) == 12


def test_holding_nothing_out_changes_nothing_and_leaves_an_empty_array_of_the_right_shape() -> None:
    dataset = datasets.Dataset(digits(), None, tuple("abcde"))
    same, near = datasets.hold_out(dataset, [])
    assert same.classes == dataset.classes
    assert np.array_equal(same.train.labels, dataset.train.labels)
    assert near.inputs["images"].shape == (0, 1, 1, 1)
    assert near.inputs["images"].dtype == np.uint8


@pytest.mark.parametrize("classes", [["z"], [5], [-1], ["a", "1"]])
def test_unknown_classes_are_named_with_the_known(classes: list) -> None:
    with pytest.raises(
        ArgumentError, match="novel_classes is .*expected names or numbers among 0 a, 1 b, 2 c"
    ):
        datasets.hold_out(datasets.Dataset(digits(), None, tuple("abcde")), classes)


def test_two_classes_must_be_left() -> None:
    with pytest.raises(ArgumentError, match="at least two classes to be left"):
        datasets.hold_out(datasets.Dataset(digits(), None, tuple("abcde")), [0, 1, 2, 3, 3])
