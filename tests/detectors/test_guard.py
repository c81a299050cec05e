"""The guard on made-up early features, and the averaging over trainings."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

from mistakes.data.features import Batch, Outputs
from mistakes.detectors import budget, conformal, guard
from mistakes.detectors.pareto_tail import BEYOND, Tail
from mistakes.errors import InputError
from mistakes.evaluation import comparison, detection, repeated_runs

SETTINGS = guard.Settings(0, 16, 4, 100, 5e-3)
SHARES = dict(zip(guard.PARTS, (0.38, 0.38, 0.16, 0.04, 0.04), strict=True))
MEANS = np.random.default_rng(5).normal(size=(3, 10)) * 2


def inputs(n: int, rng: np.random.Generator, margin: float = 4.0) -> tuple[Batch, np.ndarray]:
    """Return outputs with early features of two blocks, and log-density of three classes."""
    classes = rng.integers(0, 3, n)
    z = (MEANS[classes] + rng.normal(size=(n, 10))).astype(np.float32)
    logits = rng.normal(size=(n, 3)) + margin * np.eye(3)[classes]
    batch = Batch(z, logits.astype(np.float32), (z[:, :6], z[:, 6:]))
    return batch, -(rng.normal(size=(n, 1)) ** 2)


def tensors(batch: Batch) -> Outputs:
    views = None if batch.views is None else torch.as_tensor(batch.views)
    early = tuple(torch.as_tensor(part) for part in batch.early)
    return Outputs(torch.as_tensor(batch.features), torch.as_tensor(batch.logits), early, views)


def fit(batch: Batch, reference: tuple[Batch, np.ndarray]) -> guard.Guard:
    one = guard.fit(batch, *reference, SETTINGS)
    one.weigh(SHARES)
    return one


@pytest.fixture(scope="module")
def fitted() -> guard.Guard:
    rng = np.random.default_rng(0)
    return fit(inputs(3000, rng)[0], inputs(1000, rng))


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


def test_the_score_is_the_harmonic_mean_of_the_parts_p_values_weighted_by_shares(
    fitted: guard.Guard, rng: np.random.Generator
) -> None:
    batch, log_density = inputs(200, rng)
    parts = fitted.parts(tensors(batch), torch.as_tensor(log_density))
    probabilities = torch.softmax(torch.as_tensor(batch.logits).double(), 1).amax(1)
    assert parts["confidence"].numpy() == pytest.approx(-probabilities.log().numpy(), rel=1e-6)
    assert parts["density"].numpy() == pytest.approx(-log_density[:, 0])
    p = {
        name: np.exp(-tail(parts[name]).numpy())
        for name, tail in zip(guard.PARTS, fitted.tails, strict=True)
    }
    mean = 1 / sum(SHARES[name] / p[name] for name in guard.PARTS)
    assert fitted.score(batch, log_density) == pytest.approx(-np.log(mean))
    reasons = fitted.combine(fitted.explain(batch, log_density))[1]
    weighed = np.stack([SHARES[name] / p[name] for name in guard.PARTS])
    assert reasons.tolist() == np.array(guard.PARTS)[weighed.argmax(0)].tolist()


def test_confidence_is_that_of_the_mean_over_the_views(fitted: guard.Guard, rng) -> None:
    batch, log_density = inputs(50, rng)
    other = rng.normal(size=batch.logits.shape)
    mean = (special.softmax(batch.logits, 1) + special.softmax(other, 1)) / 2
    seen = dataclasses.replace(batch, views=np.log(mean).astype(np.float32))
    parts = fitted.parts(tensors(seen), torch.as_tensor(log_density))
    expected = -np.log(mean[np.arange(50), batch.predicted])
    assert parts["confidence"].numpy() == pytest.approx(expected, rel=1e-4)


def test_a_part_without_a_share_has_no_say(rng: np.random.Generator) -> None:
    batch, log_density = inputs(300, rng)
    one = guard.fit(batch, batch, log_density, SETTINGS)
    one.weigh(budget.shares(one.names, ["confidence"], 0.1))
    changed = one.score(dataclasses.replace(batch), log_density)
    torch.nn.init.zeros_(one.probe[0].weight)
    assert np.array_equal(one.score(batch, log_density), changed)
    assert "probe" not in one.combine(one.explain(batch, log_density))[1]


def test_several_densities_are_parts_of_their_own_and_share_what_is_given_to_density(rng) -> None:
    batch, log_density = inputs(400, rng)
    both = np.hstack([log_density, rng.normal(size=(400, 1))])
    one = guard.fit(batch, batch, both, SETTINGS)
    one.weigh(SHARES)
    assert one.names == (*guard.PARTS, "density_2")
    assert one.shares.tolist() == pytest.approx([0.38, 0.38, 0.16, 0.04, 0.02, 0.02])
    unlikely = both.copy()
    unlikely[:, 1] -= 1e6
    assert (one.combine(one.explain(batch, unlikely))[1] == "density_2").all()


def test_evidence_is_bayes_rule_with_the_gaussians_of_the_predicted_classes(
    rng: np.random.Generator,
) -> None:
    known, _ = inputs(30_000, rng)
    one = fit(known, inputs(500, rng))
    new, _ = inputs(50, rng)
    posterior, marginal = one._by_block(tensors(new).early, torch.as_tensor(new.predicted))
    joint = []
    for k in range(3):
        of_class = known.early[0][known.predicted == k].astype(float)
        gaussian = stats.multivariate_normal(of_class.mean(0), np.cov(of_class.T))
        joint.append(gaussian.logpdf(new.early[0]) + np.log(len(of_class) / 30_000))
    joint = np.stack(joint, axis=1)
    total = np.logaddexp.reduce(joint, axis=1)
    # the covariances of the guard are shrunk a little (Ledoit and Wolf)
    assert marginal[0].numpy() == pytest.approx(-total, abs=0.3)
    expected = total - joint[np.arange(50), new.predicted]
    assert posterior[0].numpy() == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("failure", ["unsure", "contradicted", "foreign", "improbable"])
def test_each_kind_of_failure_is_found(
    fitted: guard.Guard, failure: str, rng: np.random.Generator
) -> None:
    reference = fitted.score(*inputs(2000, rng))
    new, log_density = inputs(300, rng, margin=0.5 if failure == "unsure" else 4.0)
    if failure == "contradicted":  # early features of one class, a confident prediction of another
        new = dataclasses.replace(new, logits=np.roll(new.logits, 1, axis=1))
    if failure == "foreign":
        new = dataclasses.replace(new, early=tuple(part + 20 for part in new.early))
    if failure == "improbable":
        log_density = log_density - 100
    found = fitted.score(new, log_density)
    ranks = np.searchsorted(np.sort(reference), found) / len(reference)
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
    again = fit(inputs(3000, fresh)[0], inputs(1000, fresh))
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
    known, _ = inputs(1000, rng)
    known.logits[np.flatnonzero(known.predicted == 2)[left:], 2] = -9
    guard.save(fit(known, inputs(300, rng)), tmp_path / "g")
    one = guard.load(tmp_path / "g")
    new = inputs(300, rng)
    found = one.score(*new)
    assert np.isfinite(found).all()
    predicted = new[0].predicted
    assert found[predicted == 2].mean() > found[predicted < 2].mean()  # nothing like it was seen


def test_a_classifier_that_predicts_one_class_alone_has_a_guard(rng: np.random.Generator) -> None:
    known, _ = inputs(300, rng)
    known.logits[:, 1:] = -9
    one = fit(known, inputs(100, rng))
    assert np.isfinite(one.score(*inputs(100, rng))).all()


def test_a_block_that_never_varies_and_inputs_beyond_all_bounds_are_finite(
    rng: np.random.Generator, tmp_path
) -> None:
    known, reference = inputs(300, rng)[0], inputs(100, rng)
    for batch in (known, reference[0]):
        batch.early[0][:] = 0.1
    guard.save(fit(known, reference), tmp_path / "g")
    new = inputs(100, rng)
    new[0].early[0][3], new[0].early[1][4] = 1e30, -1e30
    assert np.isfinite(guard.load(tmp_path / "g").score(*new)).all()


def test_without_a_correct_input_of_val_there_is_no_guard(rng: np.random.Generator) -> None:
    known, log_density = inputs(300, rng)
    with pytest.raises(InputError, match="val: no input is classified correctly"):
        fit(known, (known.take(slice(0)), log_density[:0]))


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
