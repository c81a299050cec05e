"""Areas under risk-coverage curves against definitions and identities."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate
from sklearn.metrics import roc_auc_score

from mistakes.statistics import risk_coverage

# risk and coverage


def discrete(scores: np.ndarray, failures: np.ndarray) -> tuple[float, float]:
    """AURC as the mean over inputs of the selective risk, and AUGRC by trapezoids, for scores
    without ties.
    """
    error = np.cumsum(failures[np.argsort(scores)])
    n = len(error)
    generalised = np.r_[0, error] / n
    return float((error / np.arange(1, n + 1)).mean()), float(
        ((generalised[1:] + generalised[:-1]) / 2).mean()
    )


def test_areas_agree_with_the_definitions(rng: np.random.Generator) -> None:
    failures = rng.random(300) < 0.3
    scores = rng.normal(failures, 1)
    found = risk_coverage.areas(scores, failures, np.ones(300))
    assert found.augrc == pytest.approx(discrete(scores, failures)[1])
    # copies with broken ties, each input's copies together: the sum over inputs tends to the
    # integral
    fine = discrete(np.repeat(scores, 400), np.repeat(failures, 400))
    assert found.aurc == pytest.approx(fine[0], abs=1e-4)
    error = np.r_[0, np.cumsum(failures[np.argsort(scores)])] / 300
    knots = np.linspace(0, 1, 301)
    pieces = [
        integrate.quad(lambda c: np.interp(c, knots, error) / c, a or 1e-12, b)[0]
        for a, b in pairwise(knots)
    ]
    assert found.aurc == pytest.approx(sum(pieces))


def test_ties_have_the_expected_value_over_their_orders(rng: np.random.Generator) -> None:
    failures = rng.random(40) < 0.4
    scores = rng.integers(0, 4, 40).astype(float)
    found = risk_coverage.areas(scores, failures, np.ones(40))
    orders = [discrete(scores + 0.5 * rng.random(40), failures)[1] for _ in range(4000)]
    assert found.augrc == pytest.approx(np.mean(orders), abs=4 * np.std(orders) / np.sqrt(4000))
    # and for AURC in the limit of many copies
    many = [
        discrete(
            (wide := np.repeat(scores, 200)) + 0.5 * rng.random(len(wide)), np.repeat(failures, 200)
        )[0]
        for _ in range(40)
    ]
    assert found.aurc == pytest.approx(np.mean(many), abs=2e-3)


def test_areas_fulfil_the_published_identities(rng: np.random.Generator) -> None:
    failures, weights = rng.random(200) < 0.25, rng.random(200) + 0.1
    scores = rng.normal(failures, 1).round(1)
    found = risk_coverage.areas(scores, failures, weights)
    r = weights[failures].sum() / weights.sum()
    auroc = roc_auc_score(failures, scores, sample_weight=weights)
    # Traub et al. 2024: AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2
    assert found.augrc == pytest.approx((1 - auroc) * r * (1 - r) + r**2 / 2)
    best = risk_coverage.areas(failures.astype(float), failures, weights)
    assert best.e_aurc == pytest.approx(0, abs=1e-12)
    assert best.aurc == pytest.approx(r + (1 - r) * np.log(1 - r))
    assert best.augrc == pytest.approx(r**2 / 2)
    constant = risk_coverage.areas(np.zeros(200), failures, weights)
    assert (constant.aurc, constant.augrc) == (pytest.approx(r), pytest.approx(r / 2))
    assert risk_coverage.areas(scores, np.ones(200, bool), weights).e_aurc == pytest.approx(0)


def test_weights_are_copies(rng: np.random.Generator) -> None:
    failures, copies = rng.random(50) < 0.3, rng.integers(1, 5, 50)
    scores = rng.normal(size=50).round(1)
    weighed = risk_coverage.areas(scores, failures, 0.01 * copies)
    copied = risk_coverage.areas(
        np.repeat(scores, copies), np.repeat(failures, copies), np.ones(copies.sum())
    )
    assert (weighed.aurc, weighed.e_aurc, weighed.augrc) == pytest.approx(
        (copied.aurc, copied.e_aurc, copied.augrc)
    )
