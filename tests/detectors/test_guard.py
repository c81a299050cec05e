"""The guard on made-up early features, and the averaging over trainings."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from mistakes.detectors import conformal, guard
from mistakes.detectors.pareto_tail import BEYOND, Tail
from mistakes.errors import InputError
from mistakes.evaluation import comparison, detection, repeated_runs

SETTINGS = guard.Settings(
    0, dict(zip(guard.PARTS, (0.38, 0.38, 0.16, 0.04, 0.04), strict=True)), 16, 4, 100, 5e-3
)
MEANS = np.random.default_rng(5).normal(size=(3, 10)) * 2


def inputs(
    n: int, rng: np.random.Generator, margin: float = 4.0
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return early features of two blocks, logits and log-density of inputs of three classes."""
    classes = rng.integers(0, 3, n)
    z = (MEANS[classes] + rng.normal(size=(n, 10))).astype(np.float32)
    logits = rng.normal(size=(n, 3)) + margin * np.eye(3)[classes]
    return [z[:, :6], z[:, 6:]], logits.astype(np.float32), -(rng.normal(size=n) ** 2)


@pytest.fixture(scope="module")
def fitted() -> guard.Guard:
    rng = np.random.default_rng(0)
    early, logits, _ = inputs(3000, rng)
    return guard.fit(early, logits, inputs(1000, rng), SETTINGS)


def test_tail_is_the_empirical_p_value_and_goes_on_beyond_it(rng: np.random.Generator) -> None:
    tail = Tail()
    tail.fit(torch.as_tensor(rng.exponential(size=20_000)))
    x = torch.linspace(0.01, 12, 500, dtype=torch.double, requires_grad=True)
    surprise = tail(x)
    assert (surprise.diff() > 0).all()  # no ties, however extreme
    # the survival function of an exponential variable is exp(-x)
    assert surprise.detach().numpy()[:200] == pytest.approx(x.detach().numpy()[:200], abs=0.15)
    assert surprise[-1].item() == pytest.approx(12, rel=0.25)
    (gradient,) = torch.autograd.grad(surprise.sum(), x)
    assert (gradient > 0).all()
    assert tail(torch.tensor([-1.0])).item() == 0


def test_tail_of_ties_and_of_a_constant_is_finite() -> None:
    constants = [np.full(n, value) for value in (7.3, -1e4, 1e12) for n in (1, 30)]
    for scores in (np.repeat([0.0, 1.0], [95, 5]), np.zeros(30), np.arange(2.0), *constants):
        tail = Tail()
        tail.fit(torch.as_tensor(scores))
        found = tail(
            torch.tensor([-1e6, scores[0], scores[-1], scores[-1] + 1, 1e15], dtype=torch.double)
        )
        assert torch.isfinite(found).all()
        assert (found.diff() >= 0).all()
        assert found[-1] > -np.log(BEYOND)


def test_the_score_is_the_largest_share_of_a_part_s_surprise(
    fitted: guard.Guard, rng: np.random.Generator
) -> None:
    early, logits, log_density = inputs(200, rng)
    tensors = (
        [torch.as_tensor(part) for part in early],
        torch.as_tensor(logits),
        torch.as_tensor(log_density),
    )
    parts = fitted.parts(*tensors)
    probabilities = torch.softmax(tensors[1].double(), 1).amax(1)
    assert parts["confidence"].numpy() == pytest.approx(-probabilities.log().numpy(), rel=1e-6)
    assert parts["density"].numpy() == pytest.approx(-log_density)
    surprises = [
        tail(parts[name]) + np.log(SETTINGS.shares[name])
        for name, tail in zip(guard.PARTS, fitted.tails, strict=True)
    ]
    assert fitted.score(early, logits, log_density) == pytest.approx(
        torch.stack(surprises).amax(0).numpy()
    )


def test_evidence_is_bayes_rule_with_the_gaussians_of_the_predicted_classes(
    rng: np.random.Generator,
) -> None:
    early, logits, _ = inputs(30_000, rng)
    one = guard.fit(early, logits, inputs(500, rng), SETTINGS)
    new, new_logits, _ = inputs(50, rng)
    predicted = new_logits.argmax(1)
    posterior, marginal = one._by_block(
        [torch.as_tensor(part) for part in new], torch.as_tensor(predicted)
    )
    fit_predicted = logits.argmax(1)
    joint = []
    for k in range(3):
        of_class = early[0][fit_predicted == k].astype(float)
        gaussian = stats.multivariate_normal(of_class.mean(0), np.cov(of_class.T))
        joint.append(gaussian.logpdf(new[0]) + np.log(len(of_class) / 30_000))
    joint = np.stack(joint, axis=1)
    total = np.logaddexp.reduce(joint, axis=1)
    # the covariances of the guard are shrunk a little (Ledoit and Wolf)
    assert marginal[0].numpy() == pytest.approx(-total, abs=0.3)
    assert posterior[0].numpy() == pytest.approx(total - joint[np.arange(50), predicted], abs=0.3)


@pytest.mark.parametrize("failure", ["unsure", "contradicted", "foreign", "improbable"])
def test_each_kind_of_failure_is_found(
    fitted: guard.Guard, failure: str, rng: np.random.Generator
) -> None:
    reference = fitted.score(*inputs(2000, rng))
    early, logits, log_density = inputs(300, rng, margin=0.5 if failure == "unsure" else 4.0)
    if failure == "contradicted":  # early features of one class, a confident prediction of another
        logits = np.roll(logits, 1, axis=1)
    if failure == "foreign":
        early = [part + 20 for part in early]
    if failure == "improbable":
        log_density = log_density - 100
    ranks = np.searchsorted(np.sort(reference), fitted.score(early, logits, log_density)) / len(
        reference
    )
    assert ranks.mean() > (0.75 if failure == "unsure" else 0.95)


def test_false_alarms_keep_alpha_once_calibrated(fitted: guard.Guard) -> None:
    rng, alarms = np.random.default_rng(3), []
    for _ in range(200):
        calibration, new = fitted.score(*inputs(99, rng)), fitted.score(*inputs(50, rng))
        alarms.append((conformal.p_values(calibration, new) <= 0.1).mean())
    # the mean of 200 rates with standard deviation of about 0.05 each
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.015)


def test_one_seed_gives_one_guard_and_saving_keeps_it(fitted: guard.Guard, tmp_path, rng) -> None:
    fresh = np.random.default_rng(0)
    early, logits, _ = inputs(3000, fresh)
    again = guard.fit(early, logits, inputs(1000, fresh), SETTINGS)
    for number, one in enumerate((fitted, again)):
        guard.save(one, tmp_path / f"{number}.safetensors")
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
    new = inputs(2500, rng)
    assert np.array_equal(guard.load(tmp_path / "0.safetensors").score(*new), fitted.score(*new))
    (tmp_path / "0.safetensors").write_bytes((tmp_path / "0.safetensors").read_bytes()[:-100])
    with pytest.raises(InputError, match="unreadable"):
        guard.load(tmp_path / "0.safetensors")


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_class_that_is_hardly_predicted_on_fit_is_scored_all_the_same(
    left: int, rng, tmp_path
) -> None:
    early, logits, _ = inputs(1000, rng)
    rare = np.flatnonzero(logits.argmax(1) == 2)[left:]
    logits[rare, 2] = -9
    guard.save(guard.fit(early, logits, inputs(300, rng), SETTINGS), tmp_path / "g")
    one = guard.load(tmp_path / "g")
    new = inputs(300, rng)
    found = one.score(*new)
    assert np.isfinite(found).all()
    predicted = new[1].argmax(1)
    assert found[predicted == 2].mean() > found[predicted < 2].mean()  # nothing like it was seen


def test_a_classifier_that_predicts_one_class_alone_has_a_guard(rng: np.random.Generator) -> None:
    early, logits, _ = inputs(300, rng)
    logits[:, 1:] = -9
    one = guard.fit(early, logits, inputs(100, rng), SETTINGS)
    assert np.isfinite(one.score(*inputs(100, rng))).all()


def test_a_block_that_never_varies_and_inputs_beyond_all_bounds_are_finite(
    rng: np.random.Generator, tmp_path
) -> None:
    early, logits, _ = inputs(300, rng)
    reference = inputs(100, rng)
    for part in (early[0], reference[0][0]):
        part[:] = 0.1
    guard.save(guard.fit(early, logits, reference, SETTINGS), tmp_path / "g")
    new = inputs(100, rng)
    new[0][0][3], new[0][1][4] = 1e30, -1e30
    assert np.isfinite(guard.load(tmp_path / "g").score(*new)).all()


def test_without_a_correct_input_of_val_there_is_no_guard(rng: np.random.Generator) -> None:
    early, logits, _ = inputs(300, rng)
    with pytest.raises(InputError, match="val: no input is classified correctly"):
        guard.fit(early, logits, ([part[:0] for part in early], logits[:0], np.zeros(0)), SETTINGS)


# several trainings


def scored(rng: np.random.Generator, shift: float) -> pd.DataFrame:
    sets = [
        ("id", "test", True, 0, 300),
        ("id", "test", False, shift, 60),
        ("adversarial", "pgd", False, shift, 80),
        ("ood", "noise", False, 3, 90),
    ]
    parts = []
    for origin, name, correct, mean, n in sets:
        made = {
            "origin": origin,
            "set": name,
            "correct": correct,
            "a": rng.normal(mean, 1, n),
            "p_a": np.full(n, 0.5),
        }
        parts.append(pd.DataFrame(made))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(index=table.groupby("origin").cumcount())


def test_averages_over_trainings(rng: np.random.Generator) -> None:
    settings = detection.Settings(0.05, 200, 0.95, 0)
    tables = {str(shift): scored(rng, shift) for shift in (0.5, 1.0, 1.5)}
    macros = [
        detection.evaluate(t, ("a",), settings).macro["macro_auroc"].item() for t in tables.values()
    ]
    found = repeated_runs.across(tables, ("a",), settings).iloc[0]
    assert found["macro"] == pytest.approx(np.mean(macros))
    assert found["macro_sd"] == pytest.approx(np.std(macros, ddof=1))
    alone = repeated_runs.across({"1.0": tables["1.0"]}, ("a",), settings).iloc[0]
    # trainings that differ make the interval wider than images alone do
    assert found["macro_high"] - found["macro_low"] > 1.5 * (
        alone["macro_high"] - alone["macro_low"]
    )
    assert found["macro_low"] < found["macro"] < found["macro_high"]
    assert "| a | " in repeated_runs.markdown(pd.DataFrame([found]), 3, 0.95)


def test_trainings_that_lack_a_baseline_are_compared_by_the_others(
    rng: np.random.Generator,
) -> None:
    settings = detection.Settings(0.05, 20, 0.95, 0)
    more, less = scored(rng, 1.0), scored(rng, 1.0)
    more = more.assign(b=more["a"] + 1, p_b=more["p_a"])
    for tables in ({"x": more, "y": less}, {"x": less, "y": more}):
        assert repeated_runs.across(tables, ("a", "b"), settings)["score"].tolist() == ["a"]


def test_the_best_baseline_of_several_trainings_is_one_that_all_have(
    rng: np.random.Generator,
) -> None:
    settings, columns = (
        detection.Settings(0.05, 20, 0.95, 0),
        ("guard", "nll", "msp", "vim"),
    )
    whole = scored(rng, 1.0)
    whole = whole.assign(
        **dict.fromkeys(columns[:3], whole["a"]), vim=whole["a"] + 5 * ~whole["correct"]
    )
    whole = whole.assign(**{f"p_{name}": whole["p_a"] for name in columns})
    tables = {"x": whole, "y": whole.drop(columns=["vim", "p_vim"])}
    found = {
        name: detection.evaluate(table, tuple(c for c in columns if c in table), settings).macro
        for name, table in tables.items()
    }
    lines = comparison.compare(tables, found, {"x": [], "y": []}, [("x", "y")], settings).lines
    assert [(line.names, line.best) for line in lines] == [
        (("x", "y"), "msp"),
        (("x",), "vim"),
        (("y",), "msp"),
    ]
