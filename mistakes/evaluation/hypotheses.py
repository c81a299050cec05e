"""Hypothesis tests: have failures a lower log-density than successes? Pre-registered, one-sided,
Holm over a family.

All scores are minus the log-density, so "lower density" is "higher score".
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mistakes.artifacts import Array
from mistakes.statistics import effect_sizes
from mistakes.statistics.logistic import added_value, restricted_cubic_spline
from mistakes.statistics.resampling import stratified_permutation
from mistakes.statistics.trend import DECILES, cochran_armitage, quantile_bins, rate_ratio

LEAST = 2  # members that each group must have to be tested
RESOLUTION = float(
    np.finfo(np.float32).eps
)  # of a confidence: the nearest to 0 and 1 whose logit is meant


@dataclass(frozen=True)
class Group:
    """One side of a comparison, each (n,): -log p in nats, predicted classes, and minus the
    confidence (MSP).
    """

    scores: Array
    classes: Array
    msp: Array


@dataclass(frozen=True)
class Sample:
    """What one test compares. In a paired test failure i comes from success i."""

    failures: Group
    successes: Group

    def pooled(self, field: str) -> Array:
        """Return a field of both groups, failures first."""
        return np.concatenate([getattr(self.failures, field), getattr(self.successes, field)])

    @property
    def failed(self) -> Array:
        """Where the pooled images are failures, bool."""
        return np.arange(len(self.failures.scores) + len(self.successes.scores)) < len(
            self.failures.scores
        )


@dataclass(frozen=True)
class Result:
    """One test of one set of failures. None where a column has no meaning for the test."""

    hypothesis: str
    set: str
    family: str
    test: str
    n: int  # failures
    n_success: int
    # mean log-density of successes minus that of failures, nats; within strata where so tested
    difference: float
    # P(failure less likely than success) + P(tie) / 2: A12, the AUROC; over pairs within strata for
    # those
    a12: float
    a12_low: float
    a12_high: float
    a12_null_sd: float | None  # within strata where so tested
    p: float  # of the registered test
    second_test: str
    p_second: float
    p_ks: float | None = (
        None  # two-sample Kolmogorov-Smirnov, where registered without pairs or strata
    )
    hodges_lehmann: float | None = (
        None  # median of the differences, or for pairs of the Walsh averages, nats
    )
    hodges_lehmann_low: float | None = None
    hodges_lehmann_high: float | None = None
    odds_ratio: float | None = (
        None  # of failure: per standard deviation of -log p (confidence bins), per decile (trend)
    )
    odds_ratio_low: float | None = None
    odds_ratio_high: float | None = None
    rate_ratio: float | None = (
        None  # trend: error rate of the least likely decile over that of the most likely
    )
    rate_ratio_low: float | None = None
    rate_ratio_high: float | None = None


@dataclass(frozen=True)
class Settings:
    """How precisely to test."""

    resamples: int
    bootstrap: int
    confidence_level: float
    bins: int  # of confidence
    seed: int


def test(
    hypothesis: str, name: str, family: str, kind: str, sample: Sample, settings: Settings
) -> Result:
    """Test one hypothesis on one set.

    kind : ``permutation``; ``permutation_paired`` (sign flips);
    ``permutation_within_predicted_class``; ``permutation_within_confidence_bins`` (does the density
    say more than the confidence?); ``cochran_armitage`` (does the error rate fall over the deciles
    of log-density? Sample: failures and successes of one set of images). Where a group has fewer
    than 2 members there is no evidence: p is 1, A12 0.5 within [0, 1].
    """
    f, s = sample.failures.scores, sample.successes.scores
    labels: dict[str, Any] = {
        "hypothesis": hypothesis,
        "set": name,
        "family": family,
        "test": kind,
        "n": len(f),
        "n_success": len(s),
    }
    if min(len(f), len(s)) < LEAST:
        return Result(
            **labels,
            difference=0.0,
            a12=0.5,
            a12_low=0.0,
            a12_high=1.0,
            a12_null_sd=None,
            p=1.0,
            second_test=_SECOND[kind],
            p_second=1.0,
        )
    # each test draws from a stream of its own, so that adding a hypothesis changes no other
    rng = np.random.default_rng([settings.seed, *f"{hypothesis}.{name}".encode()])
    strata = _STRATA[kind](sample, settings.bins) if kind in _STRATA else np.zeros(len(f) + len(s))
    parts = effect_sizes.parts_of(strata[: len(f)], strata[len(f) :])
    difference, p = _TESTS[kind](sample, strata, settings.resamples, rng)
    shown = parts if kind in _STRATA else effect_sizes.WHOLE  # the effect of what is tested
    paired = kind == "permutation_paired"
    a12, low, high = effect_sizes.a12(
        f, s, shown, paired, settings.bootstrap, settings.confidence_level, rng
    )
    return Result(
        **labels,
        difference=difference,
        a12=a12,
        a12_low=low,
        a12_high=high,
        p=p,
        second_test=_SECOND[kind],
        a12_null_sd=effect_sizes.a12_null_sd(len(f), len(s), parts),
        **_second(kind, sample, settings.confidence_level),
    )


def _classes(sample: Sample, _bins: int) -> Array:
    return sample.pooled("classes")


def _confidence_bins(sample: Sample, bins: int) -> Array:
    return quantile_bins(sample.pooled("msp"), bins)


def _mean_difference(x: Array, y: Array, axis: int = -1) -> Array:
    return x.mean(axis=axis) - y.mean(axis=axis)


def _plain(
    sample: Sample, _strata: Array, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    found = stats.permutation_test(
        (sample.failures.scores, sample.successes.scores),
        _mean_difference,
        vectorized=True,
        n_resamples=resamples,
        batch=500,
        alternative="greater",
        rng=rng,
    )
    return float(found.statistic), float(found.pvalue)


def _paired(
    sample: Sample, _strata: Array, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Flip the sign of each pair's difference: under the null its members are exchangeable."""

    def mean(difference: Array, axis: int = -1) -> Array:
        return difference.mean(axis=axis)

    found = stats.permutation_test(
        (sample.failures.scores - sample.successes.scores,),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=500,
        alternative="greater",
        rng=rng,
    )
    return float(found.statistic), float(found.pvalue)


def _within(
    sample: Sample, strata: Array, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    return stratified_permutation(sample.pooled("scores"), sample.failed, strata, resamples, rng)


def _trend(
    sample: Sample, _strata: Array, _resamples: int, _rng: np.random.Generator
) -> tuple[float, float]:
    difference = float(_mean_difference(sample.failures.scores, sample.successes.scores))
    return difference, cochran_armitage(sample.pooled("scores"), sample.failed)


_TESTS: dict[str, Callable[[Sample, Array, int, np.random.Generator], tuple[float, float]]] = {
    "permutation": _plain,
    "permutation_paired": _paired,
    "permutation_within_predicted_class": _within,
    "permutation_within_confidence_bins": _within,
    "cochran_armitage": _trend,
}
_STRATA: dict[str, Callable[[Sample, int], Array]] = {
    "permutation_within_predicted_class": _classes,
    "permutation_within_confidence_bins": _confidence_bins,
}
_SECOND = {
    "permutation": "mann_whitney_u",
    "permutation_paired": "wilcoxon_signed_rank",
    "permutation_within_predicted_class": "mann_whitney_u",
    "permutation_within_confidence_bins": "logistic_likelihood_ratio",
    "cochran_armitage": "logistic_likelihood_ratio",
}


def _second(kind: str, sample: Sample, confidence_level: float) -> dict[str, Any]:
    """Return the second test, and the effect sizes that belong to it."""
    f, s = sample.failures.scores, sample.successes.scores
    if kind == "permutation_within_confidence_bins":
        return _added_value(sample, confidence_level)
    if kind == "permutation_paired":
        p = (
            stats.wilcoxon(f, s, alternative="greater").pvalue if (f != s).any() else 1.0
        )  # of nothing scipy's is NaN
        return {"p_second": float(p)} | _shift(
            *effect_sizes.hodges_lehmann_paired(f - s, confidence_level)
        )
    shift = _shift(*effect_sizes.hodges_lehmann(f, s, confidence_level))
    if kind == "cochran_armitage":
        return shift | _trend_effects(sample, confidence_level)
    found = {"p_second": float(stats.mannwhitneyu(f, s, alternative="greater").pvalue)} | shift
    if kind == "permutation":
        found["p_ks"] = float(stats.ks_2samp(f, s, alternative="less", method="asymp").pvalue)
    return found


def _shift(median: float, interval: effect_sizes.Interval) -> dict[str, float | None]:
    low, high = interval
    return {"hodges_lehmann": median, "hodges_lehmann_low": low, "hodges_lehmann_high": high}


def _odds(
    known: Array, score: Array, failed: Array, confidence_level: float
) -> dict[str, float | None]:
    found = asdict(added_value(failed, known, score, confidence_level))
    return {"p_second": found.pop("p")} | found


def _added_value(sample: Sample, confidence_level: float) -> dict[str, float | None]:
    """Regress failure on a flexible function of the confidence's logit, then on the standardised
    -log p as well.
    """
    share = np.clip(-sample.pooled("msp"), RESOLUTION, 1 - RESOLUTION)
    scores = sample.pooled("scores")
    known = restricted_cubic_spline(np.log(share / (1 - share)))
    return _odds(known, scores / (scores.std() or 1.0), sample.failed, confidence_level)


def _trend_effects(sample: Sample, confidence_level: float) -> dict[str, float | None]:
    """Regress failure on the number of the decile."""
    scores, failed = sample.pooled("scores"), sample.failed
    deciles = quantile_bins(scores, DECILES).astype(float)
    return _odds(np.empty((len(scores), 0)), deciles, failed, confidence_level) | rate_ratio(
        scores, failed, confidence_level
    )


def adjusted(results: list[Result], alpha: float, smallest_a12: float) -> pd.DataFrame:
    """Return a row per result with what follows from it and from its family; no row of no results.

    p_holm and p_bh: Holm and Benjamini-Hochberg over the family. cliffs_delta: 2 A12 - 1, with its
    interval. power: of the Mann-Whitney test against A12 = ``smallest_a12`` at the family's
    Bonferroni level, ``alpha`` over its size; a12_detectable: the smallest A12 with a power of 80
    %. Columns without meaning hold None.
    """
    from statsmodels.stats.multitest import multipletests

    if not results:
        return pd.DataFrame()
    table = pd.DataFrame([asdict(result) for result in results])
    for method, column in (("holm", "p_holm"), ("fdr_bh", "p_bh")):
        table[column] = table.groupby("family")["p"].transform(
            lambda p, m=method: multipletests(p, method=m)[1]
        )
    for bound in ("", "_low", "_high"):
        table[f"cliffs_delta{bound}"] = 2 * table[f"a12{bound}"] - 1
    levels = alpha / table.groupby("family")["p"].transform("size")
    known = [(result.a12_null_sd, level) for result, level in zip(results, levels, strict=True)]
    table["power"] = [sd and effect_sizes.power(smallest_a12, sd, level) for sd, level in known]
    table["a12_detectable"] = [sd and effect_sizes.detectable_a12(sd, level) for sd, level in known]
    return table.astype(object).where(table.notna(), None)


def markdown(table: pd.DataFrame) -> str:
    """Return the results as a Markdown table: effect sizes first, p after."""
    lines = [
        (
            "| hypothesis | failures | n | log-density lower by (nats, mean) | Hodges-Lehmann"
            " (nats) | A12 | Cliff's delta | odds ratio | power | p | p (Holm) | p (BH) | second"
            " test, p |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        cells = [row["hypothesis"], row["set"], row["n"], f"{row['difference']:.2f}"]
        for column, digits in (
            ("hodges_lehmann", 2),
            ("a12", 3),
            ("cliffs_delta", 3),
            ("odds_ratio", 2),
        ):
            cells.append(interval(row[column], row[f"{column}_low"], row[f"{column}_high"], digits))
        cells += [
            number(row["power"], ".3f"),
            *(f"{row[column]:.2g}" for column in ("p", "p_holm", "p_bh")),
        ]
        cells.append(f"{row['second_test'].replace('_', ' ')}, {row['p_second']:.2g}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or a dash for None."""
    return "–" if value is None else f"{value:{form}}"


def interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    """Return "value (low to high)", or a dash where there is no value."""
    form = f".{digits}f"
    return "–" if value is None else f"{value:{form}} ({number(low, form)} to {number(high, form)})"
