"""Semi-supervised training: what is seen, what is changed, what is resumed, and that it learns."""

import numpy as np
import pytest
import torch
from commands import SMOKE

from mistakes.config import params
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import architectures, augmentation, label_budget, semi_supervised, training

METHODS = {
    "fixmatch": semi_supervised.Method("fixmatch", 4, 1.0, threshold=0.9, average=0.9),
    "mean_teacher": semi_supervised.Method("mean_teacher", 4, 10.0, ramp=0.4, average=0.9),
    "pseudo_label": semi_supervised.Method("pseudo_label", 4, 1.0, ramp=0.6),
}


def schedule(epochs: int, **changed: object) -> training.Schedule:
    values = {
        "epochs": epochs,
        "batch_size": 16,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "flip": False,
        "shift": 1,
        "precision": "float32",
        "seed": 0,
    }
    return training.Schedule(**values | changed)


# which labels


def test_labels_are_a_share_of_each_class_fixed_by_the_seed(rng: np.random.Generator) -> None:
    truth = rng.permutation(np.repeat([0, 1, 2, 3], [700, 200, 99, 1]))
    known = label_budget.labelled(truth, 100, 0)
    assert np.bincount(truth[known]).tolist() == [
        70,
        20,
        9,
        1,
    ]  # 70, 20, 9.9 and 0.1, but one at least
    assert (np.diff(known) > 0).all()
    assert np.array_equal(known, label_budget.labelled(truth, 100, 0))
    assert not np.array_equal(known, label_budget.labelled(truth, 100, 1))
    assert np.bincount(truth[label_budget.labelled(truth, 4, 0)]).tolist() == [1, 1, 1, 1]
    assert np.array_equal(
        label_budget.labelled(truth, "all", 0), label_budget.labelled(truth, 1000, 0)
    )
    for number in (3, 1001):
        with pytest.raises(
            ArgumentError,
            match=rf"labels is {number}, expected all, or 4 .* to 1000",
        ):
            label_budget.labelled(truth, number, 0)


def test_baselines_know_no_label_that_the_classifier_did_not_know(rng: np.random.Generator) -> None:
    truth, logits = np.repeat([0, 1, 2], 20), rng.normal(size=(60, 3))
    known = label_budget.labelled(truth, 6, 3)
    found = label_budget.fill_in(truth, logits, 6, 3)
    assert np.array_equal(found[known], truth[known])
    others = np.setdiff1d(np.arange(60), known)
    assert np.array_equal(found[others], logits.argmax(1)[others])
    assert np.array_equal(label_budget.fill_in(truth, logits, "all", 3), truth)


# strong changes


def test_strong_changes_are_drawn_by_the_generator_and_stay_in_range(
    rng: np.random.Generator,
) -> None:
    x = torch.as_tensor(rng.random((200, 3, 12, 16)), dtype=torch.float32)
    first, again, other = (
        augmentation.strong(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == x.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in first}) == 200


def test_affine_maps_are_those_of_their_parts() -> None:
    square = torch.zeros(1, 1, 9, 9)
    square[0, 0, 1, 4] = 1.0
    none = torch.zeros(5, 1)

    def at(change: int, size: float) -> tuple[int, int]:
        sizes = none.clone()
        sizes[change] = size
        grid = torch.nn.functional.affine_grid(
            augmentation._affine(sizes), [1, 1, 9, 9], align_corners=False
        )
        moved = torch.nn.functional.grid_sample(square, grid, align_corners=False)[0, 0]
        return divmod(int(moved.argmax()), 9)

    assert at(0, 0.0) == (1, 4)
    assert at(0, 90 / augmentation.ROTATION) == (
        4,
        1,
    )  # a quarter turn about the centre, to the left
    assert at(3, 2 / 9 / augmentation.TRANSLATION) == (1, 2)  # two pixels to the left
    assert at(4, -2 / 9 / augmentation.TRANSLATION) == (3, 4)  # two pixels down


def test_cutout_is_a_grey_square_of_at_most_half_the_side() -> None:
    made = augmentation._cut_out(
        torch.ones(3, 2, 8, 8), torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [1, 0.5, 1]])
    )
    assert [int((image[0] == 0.5).sum()) for image in made] == [
        16,
        4,
        4,
    ]  # the last one at a corner
    assert torch.equal(made[:, 0], made[:, 1])


# training


@pytest.mark.parametrize("name", METHODS)
def test_no_label_is_read_but_those_given_and_a_killed_training_goes_on(
    name, digits, cpu, tmp_path
) -> None:
    images, truth = digits[0][:300], digits[1][:300]
    known = label_budget.labelled(truth, 40, 0)
    secret = np.full_like(truth, -7)  # reading one would fail
    secret[known] = truth[known]
    whole, broken, fresh = (architectures.new("small_cnn", 4, 10, images, 0) for _ in range(3))
    how = METHODS[name], cpu
    semi_supervised.train(
        whole, images, truth, known, schedule(3), *how, lambda *_: {}, tmp_path / "a"
    )

    def stop(epoch: int, _loss: float) -> dict[str, float]:
        if epoch == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        semi_supervised.train(
            broken, images, secret, known, schedule(3), *how, stop, tmp_path / "b"
        )
    history = semi_supervised.train(
        fresh, images, secret, known, schedule(3), *how, lambda *_: {}, tmp_path / "b"
    )
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_fixmatch_beats_the_same_labels_alone(digits, cpu, tmp_path) -> None:
    images, truth = digits
    known, rest = label_budget.labelled(truth[:1200], 20, 0), np.s_[1200:]
    found = {}
    for name in ("supervised", "fixmatch"):
        model = architectures.new("small_cnn", 16, 10, images[:1200], 0)
        path = tmp_path / name
        if name == "supervised":
            training.train(
                model, images[known], truth[known], schedule(60), cpu, lambda *_: {}, path
            )
        else:
            semi_supervised.train(
                model,
                images[:1200],
                truth[:1200],
                known,
                schedule(12),
                METHODS[name],
                cpu,
                lambda *_: {},
                path,
            )
        found[name] = architectures.accuracy(model, images[rest], truth[rest], cpu)
    assert found["fixmatch"] > found["supervised"] + 0.03, found


def test_the_average_is_that_of_the_weights_and_early_steps_weigh_more(digits, cpu) -> None:
    average, student = (
        architectures.new("small_cnn", 4, 10, digits[0][:50], seed) for seed in (0, 1)
    )
    start, end = average.net.logits.weight.clone(), student.net.logits.weight.clone()
    semi_supervised.update_average(average, student, METHODS["fixmatch"], 0)
    assert torch.equal(average.net.logits.weight, end)  # the start is forgotten at once
    student.net.logits.weight.data.copy_(start)
    semi_supervised.update_average(average, student, METHODS["fixmatch"], 1000)
    assert torch.allclose(average.net.logits.weight, 0.9 * end + 0.1 * start, atol=1e-7)


@pytest.mark.parametrize(
    ("progress", "of_teacher", "of_pseudo"), [(0, 0.0067379, 0), (0.2, 0.2865048, 1 / 3), (1, 1, 1)]
)
def test_the_weight_rises_as_in_the_papers(
    progress: float, of_teacher: float, of_pseudo: float
) -> None:
    assert semi_supervised._weight(METHODS["mean_teacher"], progress) == pytest.approx(
        10 * of_teacher, rel=1e-5
    )
    assert semi_supervised._weight(METHODS["pseudo_label"], progress) == pytest.approx(of_pseudo)
    assert semi_supervised._weight(METHODS["fixmatch"], progress) == 1


# parameters


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("method: fixmatch", r"classifiers.smoke.ratio is missing"),
        (
            "method: mixmatch",
            r"classifiers.smoke.method is 'mixmatch', expected one of .*'fixmatch'",
        ),
        ("labels: 0", r"classifiers.smoke.labels is 0, expected all, or a number of images"),
        ("labels: few", r"classifiers.smoke.labels is 'few', expected all, or a number of images"),
        ("threshold: 0.9\n    method: supervised", r"unknown key classifiers.smoke.threshold"),
    ],
)
def test_an_entry_has_the_keys_of_its_method_and_no_others(new: str, words: str) -> None:
    old = f"{new.split(':')[0]}: supervised" if new.startswith("method") else "labels: all"
    old = "method: supervised" if new.startswith("threshold") else old
    assert old in SMOKE
    with pytest.raises(InputError, match=words):
        params.parse(SMOKE.replace(old, new))
