"""Labels in another order than the logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import SMOKE, refused, run
from feature_rows import as_npz, read, rows, softmax

from mistakes.data import agreement
from mistakes.errors import InputError

# labels in another order than the logits


@pytest.mark.parametrize(
    ("k", "change", "words"),
    [
        (
            4,
            lambda y: y + 1,
            "a.npz: labels count from 1 to 4, but columns of logits from 0 to 3: subtract 1",
        ),
        (
            4,
            lambda y: np.where(y == 2, 9, y),
            r"a.npz: label of row \d+ is 9, expected 0 to 3, a column of logits",
        ),
        (
            2,
            lambda y: y + 1,
            "labels count from 1 to 2, but columns of logits from 0 to 1: subtract 1",
        ),
        (
            4,
            lambda y: np.array([3, 0, 1, 2])[y],
            r"in the order 3, 0, 1, 2 it would be 9\d.\d %: labels in the order of the log",
        ),
        (
            2,
            lambda y: 1 - y,
            (
                "accuracy is .*in the order 1, 0 it would be .*classes are 0, 1; labels count the"
                " columns"
            ),
        ),
        (
            12,
            lambda y: np.argsort(sorted(range(1, 13), key=str))[y],
            r"labels in the order of the logits\? classes are 0, 1",
        ),
    ],
)
def test_labels_of_files_in_another_order_are_refused(
    k, change, words: str, tmp_path: Path, rng
) -> None:
    values = rows(rng, k, n=400)
    read(tmp_path, **values)
    with pytest.raises(InputError, match=words):
        read(tmp_path, **values | {"labels": change(values["labels"])})


def predictions(rng, k: int, n: int, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, k, n)
    return np.where(rng.random(n) < accuracy, labels, rng.integers(0, k, n)), labels


NAMES = sorted(map(str, range(1, 13)))  # as folders are sorted: 1, 10, 11, 12, 2, ...


@pytest.mark.parametrize("n", [60, 150, 1000])
def test_folders_1_to_12_and_a_network_trained_in_natural_order(n: int, rng) -> None:
    predicted, natural = predictions(rng, 12, n, 0.97)
    labels = np.argsort(
        np.argsort(np.array([int(name) for name in NAMES]))
    )  # of the folder i its natural number
    labels = np.argsort(labels)[natural]
    assert (predicted == labels).mean() < 0.2
    order = ", ".join(map(str, range(1, 13)))
    words = (
        rf"in the order {order} it would be 9\d.\d %: labels in the order of the logits\? classes"
        r" are 1, 10, 11, 12, 2"
    )
    with pytest.raises(InputError, match=words) as caught:
        agreement.check(
            predicted, labels, NAMES, "classifiers.mine, on val", "raw.classes: [...] states it"
        )
    assert "raw.classes: [...]" in str(caught.value)


@pytest.mark.parametrize(("k", "n"), [(12, 150), (10, 60), (2, 1000), (3, 1000)])
def test_labels_that_predictions_know_nothing_of_are_refused(k: int, n: int, rng) -> None:
    predicted, labels = predictions(rng, k, n, 0.0)
    labels = labels[np.argsort((predicted == labels) & (np.arange(n) % 2 == 0))]
    with pytest.raises(
        InputError, match=rf"of {n} inputs are classified correctly .*guessing would give"
    ):
        agreement.check(rng.permutation(predicted), labels, list(map(str, range(k))), "x", "")


def test_one_answer_for_everything_and_none_that_is_right_are_refused(rng) -> None:
    labels, names = rng.integers(0, 5, 200), list("abcde")
    with pytest.raises(
        InputError, match="guessing would give .* .every prediction is d.: labels in the order"
    ):
        agreement.check(np.full(200, 3), labels, names, "x", "")
    with pytest.raises(InputError, match="0 of 3 inputs are classified correctly"):
        agreement.check(np.array([0, 1, 2]), np.array([1, 2, 0]), names, "x", "")


def test_weak_classifiers_and_few_inputs_are_not_refused_wrongly() -> None:
    """Of classifiers that are right in a third to a half of the cases, and of tiny validation sets,
    hardly one.
    """
    rng, refusals, exchanged = np.random.default_rng(0), 0, 0
    for _ in range(400):
        k = int(rng.choice([2, 5, 10]))
        predicted, labels = predictions(
            rng, k, int(rng.choice([8, 20, 60, 400])), 0.5 if k == 2 else 0.35
        )
        if not (predicted == labels).any():
            continue
        try:
            exchanged += any(
                "exchanged" in said
                for said in agreement.check(predicted, labels, list("abcdefghij")[:k], "x", "")
            )
        except InputError:
            refusals += 1
    assert refusals <= 4
    assert exchanged <= 1
    rare = np.r_[
        np.zeros(95, int), np.ones(5, int)
    ]  # nearly all of one class: that is no question of the order
    (said,) = agreement.check(np.zeros(100, int), rare, ["good", "bad"], "x", "")
    assert (
        "95 of 100 inputs are classified correctly (95.0 %), guessing would give 95.0 % (every"
        " prediction is good)" in said
    )


def test_two_classes_exchanged_are_warned_of(rng) -> None:
    predicted, labels = predictions(rng, 10, 500, 0.95)
    swapped = np.arange(10)
    swapped[[3, 7]] = [7, 3]
    (said,) = agreement.check(
        predicted, swapped[labels], list("abcdefghij"), "classifiers.mine", "remedy"
    )
    assert (
        "if the classes h, d were exchanged" in said or "if the classes d, h were exchanged" in said
    )
    assert not agreement.check(predicted, labels, list("abcdefghij"), "classifiers.mine", "remedy")


# in the stages


def stage_raw(folder: Path, values: dict[str, np.ndarray], **changed: Any) -> Any:
    as_npz(folder / "a.npz", **values)
    document = yaml.safe_load(SMOKE)
    document["raw"] = {
        "dataset": "features",
        "parts": {"train": "a.npz"},
        "ood": {},
        "classes": None,
    } | changed
    document["classifiers"], document["images"] = (
        {"given": {"source": "features"}},
        document["images"] | {"test": 100},
    )
    document["images"] |= {"val": 100, "cal": 100}
    document["ood"]["sets"] = []
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    return run(folder, "raw", "data/raw")


@pytest.mark.slow
def test_stages_refuse_features_in_another_order_and_tell_what_is_odd(tmp_path: Path, rng) -> None:
    values = rows(rng, 6, n=600)
    refused(
        stage_raw(tmp_path, values | {"labels": 5 - values["labels"]}),
        "labels in the order of the logits? classes",
    )
    with np.errstate(divide="ignore"):
        log = np.log(softmax(values["logits"]).round(3))
    done = stage_raw(
        tmp_path,
        values | {"logits": log, "labels": rng.permutation(values["labels"])},
        classes=list("abcdef"),
    )
    assert done.returncode == 0, done.stderr
    assert run(tmp_path, "images", "data/raw", "data/images").returncode == 0
    (said,) = json.loads((tmp_path / "data/images/warnings.json").read_text())
    assert "-inf in" in said
    paths = ("data/images/fit", "data/images/val", "data/images/classes.json")
    done = run(tmp_path, "classifier", *paths, "data/classifier/given")
    refused(
        done,
        "inputs are classified correctly",
        "guessing would give",
        "labels in the order of the logits? classes are a, b, c",
    )
    assert not (tmp_path / "data/classifier/given").exists()
