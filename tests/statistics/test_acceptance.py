"""The promise about what is accepted, over simulated calibrations."""

import numpy as np
import pytest

from mistakes.errors import ArgumentError
from mistakes.statistics import acceptance


def drawn(
    n: int, rng: np.random.Generator, steepness: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, uniform on [0, 1], and errors, whose rate at score u is u^steepness / 2."""
    scores = rng.uniform(size=n)
    return scores, rng.uniform(size=n) < scores**steepness / 2


def risk(threshold: float, steepness: float = 4.0) -> float:
    """Return the error rate of what has a score of at most ``threshold``, exactly."""
    return min(threshold, 1.0) ** steepness / (2 * (steepness + 1))


@pytest.mark.parametrize("error", [0.02, 0.05])
def test_a_thousand_calibrations_keep_the_promise_and_use_it(
    error: float, rng: np.random.Generator
) -> None:
    broken, coverages = 0, []
    for _ in range(1000):
        validation, _ = drawn(500, rng)
        region = acceptance.largest(
            acceptance.curve(validation, *drawn(2000, rng)), error, delta=0.05
        )
        assert region is not None
        broken += risk(region.threshold) > error
        coverages.append(region.coverage)
        assert region.wrong <= error <= 1
        assert region.bound <= error + 1e-12
    assert broken <= 50 + 3 * np.sqrt(1000 * 0.05 * 0.95)
    best = (10 * error) ** 0.25  # where the risk is the error rate itself
    assert np.mean(coverages) > 0.85 * min(best, 1)


def test_the_promise_holds_where_score_and_error_have_nothing_to_do_with_each_other(
    rng: np.random.Generator,
) -> None:
    """The error rate is a little more than asked for, everywhere: all null hypotheses hold."""
    broken = 0
    for _ in range(1000):
        scores = rng.uniform(size=1000)
        rows = acceptance.curve(rng.uniform(size=300), scores, rng.uniform(size=1000) < 0.0501)
        broken += acceptance.largest(rows, 0.05, delta=0.1) is not None
    assert broken <= 100 + 3 * np.sqrt(1000 * 0.1 * 0.9)


def test_a_smaller_error_or_delta_accepts_no_more(rng: np.random.Generator) -> None:
    rows = acceptance.curve(drawn(500, rng)[0], *drawn(3000, rng))
    thresholds = [acceptance.largest(rows, e, 0.05).threshold for e in (0.02, 0.05, 0.2)]
    assert thresholds == sorted(thresholds)
    surer = [acceptance.largest(rows, 0.05, delta).threshold for delta in (0.01, 0.1)]
    assert surer == sorted(surer)


def test_few_images_promise_nothing(rng: np.random.Generator) -> None:
    scores, _ = drawn(50, rng)
    rows = acceptance.curve(scores, scores, np.zeros(50, bool))
    assert acceptance.largest(rows, 0.01, 0.05) is None  # 299 answers without an error would do
    assert acceptance.largest(rows, 0.1, 0.05).coverage == 1


def test_thresholds_are_as_a_csv_keeps_them(rng: np.random.Generator) -> None:
    rows = acceptance.curve(rng.normal(size=300), rng.normal(size=300), np.zeros(300, bool))
    assert [float(f"{t:.6g}") for t in rows["threshold"]] == rows["threshold"].tolist()


@pytest.mark.parametrize(("error", "delta"), [(0, 0.1), (1, 0.1), (np.nan, 0.1), (0.1, 0)])
def test_what_is_no_share_is_refused(error: float, delta: float) -> None:
    rows = acceptance.curve(np.arange(9.0), np.arange(9.0), np.zeros(9, bool))
    with pytest.raises(ArgumentError, match="expected more than 0 and less than 1"):
        acceptance.largest(rows, error, delta)
