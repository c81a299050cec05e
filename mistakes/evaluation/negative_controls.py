"""Negative controls: comparisons in which nothing should be found, and how over-likely training
features are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mistakes import progress
from mistakes.artifacts import Array
from mistakes.evaluation.families import interval, number
from mistakes.evaluation.hypotheses import MIN_MEMBERS, Sample
from mistakes.statistics import effect_sizes
from mistakes.statistics.resampling import stratified_permutation

LEVEL = 0.05  # of the repeated tests whose rejections are counted


@dataclass(frozen=True)
class Settings:
    """How often controls are repeated, how precisely they test, and below which p one fails."""

    repetitions: int
    resamples: int  # of each repetition's permutation test
    bootstrap: int
    alpha: float  # intervals have the confidence 1 - alpha
    seed: int


@dataclass(frozen=True)
class Control:
    """One negative control."""

    control: str
    expected: str
    n: int  # images of the first side
    n_other: int  # images of the second side
    repetitions: int
    statistic: str
    value: float
    low: float
    high: float
    test: str
    p: float
    difference: float | None  # nats, where something is measured
    passed: bool | None  # None: a measurement that nothing can fail


def run_all(sample: Sample, train: Array, settings: Settings) -> list[Control]:
    """Return the four controls. ``sample``: test mistakes and successes; ``train`` (t,): -log p of
    training images.

    Each draws from a stream of its own.
    """
    return [
        id_halves(sample.successes.scores, settings),
        random_score(sample, settings),
        shuffled_correctness(sample, settings),
        train_against_test(train, sample.successes.scores, settings),
    ]


def id_halves(scores: Array, settings: Settings) -> Control:
    """Compare random halves of successes (n,) by Mann-Whitney U: p must be uniform."""
    half = len(scores) // 2

    def p(rng: np.random.Generator) -> float:
        shuffled = rng.permutation(scores)
        return float(
            stats.mannwhitneyu(shuffled[:half], shuffled[half:], alternative="greater").pvalue
        )

    return _uniform("id_halves", half, len(scores) - half, p, settings)


def shuffled_correctness(sample: Sample, settings: Settings) -> Control:
    """Run the test of H1, within predicted classes, on shuffled labels of correctness: p must be
    uniform.
    """
    scores, classes, failed = sample.pooled("scores"), sample.pooled("classes"), sample.failed

    def p(rng: np.random.Generator) -> float:
        shuffled = rng.permutation(failed)
        found = stratified_permutation(scores, shuffled, classes, settings.resamples, rng)
        # spread over its step: a p of few resamples is discrete
        return found.pvalue - rng.random() / (settings.resamples + 1)

    return _uniform("shuffled_correctness", int(failed.sum()), int((~failed).sum()), p, settings)


def _uniform(
    control: str,
    n: int,
    n_other: int,
    test: Callable[[np.random.Generator], float],
    settings: Settings,
) -> Control:
    expected, statistic = "p uniform on [0, 1]", f"share of p <= {LEVEL}"
    if min(n, n_other) < MIN_MEMBERS:  # no evidence
        return Control(
            control,
            expected,
            n,
            n_other,
            0,
            statistic,
            0.0,
            0.0,
            1.0,
            "kolmogorov_smirnov",
            1.0,
            None,
            None,
        )
    rng = _stream(control, settings)
    p = np.array([test(rng) for _ in progress.bar(range(settings.repetitions), "repetitions")])
    rejected = stats.binomtest(int((p <= LEVEL).sum()), len(p))
    bounds = rejected.proportion_ci(1 - settings.alpha, method="exact")
    distance = float(stats.kstest(p, "uniform").pvalue)
    return Control(
        control,
        expected,
        n,
        n_other,
        len(p),
        statistic,
        rejected.statistic,
        float(bounds.low),
        float(bounds.high),
        "kolmogorov_smirnov",
        distance,
        None,
        distance >= settings.alpha,
    )


def random_score(sample: Sample, settings: Settings) -> Control:
    """Let a score drawn at random tell failures from successes: AUROC 0.5."""
    rng = _stream("random_score", settings)
    scores = rng.normal(size=len(sample.failed))
    f, s = scores[sample.failed], scores[~sample.failed]
    value, low, high, p = _auroc(f, s, settings, rng)
    return Control(
        "random_score",
        "AUROC 0.5 within the interval",
        len(f),
        len(s),
        1,
        "AUROC",
        value,
        low,
        high,
        "mann_whitney_u",
        p,
        None,
        low <= 0.5 <= high,
    )


def train_against_test(train: Array, test: Array, settings: Settings) -> Control:
    """Measure how much less likely correct test images (n,) are than correct training images (t,):
    AUROC, nats.
    """
    value, low, high, p = _auroc(test, train, settings, _stream("train_against_test", settings))
    return Control(
        "train_against_test",
        "AUROC 0.5 where the flow and the classifier do not overfit",
        len(test),
        len(train),
        1,
        "AUROC",
        value,
        low,
        high,
        "mann_whitney_u",
        p,
        float(test.mean() - train.mean()) if len(train) else None,
        None,
    )


def _stream(control: str, settings: Settings) -> np.random.Generator:
    return np.random.default_rng([settings.seed, *control.encode()])


def _auroc(
    f: Array, s: Array, settings: Settings, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return AUROC with its interval, and the two-sided p of Mann-Whitney U."""
    if min(len(f), len(s)) < MIN_MEMBERS:  # no evidence
        return 0.5, 0.0, 1.0, 1.0
    found = effect_sizes.a12(
        f, s, effect_sizes.WHOLE, False, settings.bootstrap, 1 - settings.alpha, rng
    )
    return *found, float(stats.mannwhitneyu(f, s, alternative="two-sided").pvalue)


def markdown(controls: list[Control]) -> str:
    """Return the controls as a Markdown table."""
    lines = [
        "| control | expected | n | statistic | value (interval) | nats | test, p | passed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in controls:
        passed = {True: "yes", False: "no", None: "–"}[c.passed]
        lines.append(
            f"| {c.control.replace('_', ' ')} | {c.expected} | {c.n} against {c.n_other},"
            f" {c.repetitions} times | {c.statistic} | {interval(c.value, c.low, c.high, 3)} |"
            f" {number(c.difference, '.2f')} | {c.test.replace('_', ' ')}, {c.p:.2g} | {passed} |"
        )
    return "\n".join(lines) + "\n"
