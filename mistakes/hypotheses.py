"""Hypothesis tests: have failures a lower log-density than successes? Pre-registered, one-sided, Holm over a family.

All scores are minus the log-density, so "lower density" is "higher score".
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mistakes.artifacts import Array
from mistakes.resampling import auroc, bootstrap_weights, rank, stratified_permutation

LEAST = 2  # members that each group must have to be tested


@dataclass(frozen=True)
class Sample:
    """What one test compares: -log p of failures (f,) and of successes (s,), nats, and the predicted classes."""

    failures: Array
    successes: Array
    failure_classes: Array
    success_classes: Array


@dataclass(frozen=True)
class Result:
    """One test of one set of failures."""

    hypothesis: str
    set: str
    family: str
    test: str
    n: int  # failures
    n_success: int
    difference: float  # mean log-density of successes minus that of failures, nats; within classes where so tested
    a12: float  # P(failure less likely than success) + P(tie) / 2: Vargha and Delaney's A12, the AUROC
    a12_low: float
    a12_high: float
    p: float  # of the registered permutation test
    second_test: str
    p_second: float
    p_ks: float | None  # two-sample Kolmogorov-Smirnov, where registered without pairs or strata


@dataclass(frozen=True)
class Settings:
    """How precisely to test."""

    resamples: int
    bootstrap: int
    confidence: float
    seed: int


def test(hypothesis: str, name: str, family: str, kind: str, sample: Sample, settings: Settings) -> Result:
    """Test one hypothesis on one set.

    kind : ``permutation_within_predicted_class``, ``permutation_paired`` (sign flips; failure i comes from success i)
    or ``permutation``. Where a group has fewer than 2 members there is no evidence: p is 1, A12 0.5 within [0, 1].
    """
    f, s = sample.failures, sample.successes
    labels: dict[str, Any] = {
        "hypothesis": hypothesis,
        "set": name,
        "family": family,
        "test": kind,
        "n": len(f),
        "n_success": len(s),
    }
    second = "wilcoxon_signed_rank" if kind == "permutation_paired" else "mann_whitney_u"
    if min(len(f), len(s)) < LEAST:
        return Result(**labels, difference=0.0, a12=0.5, a12_low=0.0, a12_high=1.0, p=1.0, second_test=second,
                      p_second=1.0, p_ks=None)  # fmt: skip
    # each test draws from a stream of its own, so that adding a hypothesis changes no other
    rng = np.random.default_rng([settings.seed, *f"{hypothesis}.{name}".encode()])
    difference, p = _TESTS[kind](sample, settings.resamples, rng)
    if kind == "permutation_paired":
        p_second = stats.wilcoxon(f, s, alternative="greater").pvalue
    else:
        p_second = stats.mannwhitneyu(f, s, alternative="greater").pvalue
    p_ks = float(stats.ks_2samp(f, s, alternative="less", method="asymp").pvalue) if kind == "permutation" else None
    low, high = _a12_interval(f, s, kind == "permutation_paired", settings, rng)
    a12 = float(auroc(rank(f, s), np.ones((len(f), 1)), np.ones((len(s), 1)))[0])
    return Result(**labels, difference=difference, a12=a12, a12_low=low, a12_high=high, p=p, second_test=second,
                  p_second=float(p_second), p_ks=p_ks)  # fmt: skip


def _mean_difference(x: Array, y: Array, axis: int = -1) -> Array:
    return x.mean(axis=axis) - y.mean(axis=axis)


def _permutation(sample: Sample, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    found = stats.permutation_test(
        (sample.failures, sample.successes), _mean_difference, vectorized=True, n_resamples=resamples, batch=500,
        alternative="greater", rng=rng,
    )  # fmt: skip
    return float(found.statistic), float(found.pvalue)


def _paired(sample: Sample, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Flip the sign of each pair's difference: under the null a pair's members could be exchanged."""

    def mean(difference: Array, axis: int = -1) -> Array:
        return difference.mean(axis=axis)

    found = stats.permutation_test(
        (sample.failures - sample.successes,), mean, permutation_type="samples", vectorized=True,
        n_resamples=resamples, batch=500, alternative="greater", rng=rng,
    )  # fmt: skip
    return float(found.statistic), float(found.pvalue)


def _within_class(sample: Sample, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    scores = np.concatenate([sample.failures, sample.successes])
    group = np.arange(len(scores)) < len(sample.failures)
    strata = np.concatenate([sample.failure_classes, sample.success_classes])
    return stratified_permutation(scores, group, strata, resamples, rng)


_TESTS: dict[str, Callable[[Sample, int, np.random.Generator], tuple[float, float]]] = {
    "permutation": _permutation,
    "permutation_paired": _paired,
    "permutation_within_predicted_class": _within_class,
}


def _a12_interval(
    f: Array, s: Array, paired: bool, settings: Settings, rng: np.random.Generator
) -> tuple[float, float]:
    """Percentile bootstrap; pairs are resampled together."""
    ranked = rank(f, s)
    values = []
    for weights in bootstrap_weights(len(f), settings.bootstrap, rng):
        other = weights if paired else next(bootstrap_weights(len(s), weights.shape[1], rng))
        values.append(auroc(ranked, weights, other))
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


def adjusted(results: list[Result]) -> pd.DataFrame:
    """Return a row per result with p_holm and p_bh: Holm and Benjamini-Hochberg over each family."""
    from statsmodels.stats.multitest import multipletests

    table = pd.DataFrame([asdict(result) for result in results])
    for method, column in (("holm", "p_holm"), ("fdr_bh", "p_bh")):
        table[column] = table.groupby("family")["p"].transform(lambda p, m=method: multipletests(p, method=m)[1])
    return table


def markdown(table: pd.DataFrame) -> str:
    """Return the results as a Markdown table: effect sizes first, p after."""
    lines = [
        "| hypothesis | failures | n | log-density lower by (nats) | A12 (interval) | p | p (Holm) | second test, p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        a12 = f"{row['a12']:.3f} ({row['a12_low']:.3f} to {row['a12_high']:.3f})"
        second = f"{row['second_test'].replace('_', ' ')}, {row['p_second']:.2g}"
        lines.append(
            f"| {row['hypothesis']} | {row['set']} | {row['n']} | {row['difference']:.2f} | {a12} | {row['p']:.2g} "
            f"| {row['p_holm']:.2g} | {second} |"
        )
    return "\n".join(lines) + "\n"
