"""Hypothesis tests: have failures a lower log-density than successes? Pre-registered, one-sided.

All scores are minus the log-density, so "lower density" is "higher score".
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from mistakes.artifacts import Array
from mistakes.statistics import effect_sizes
from mistakes.statistics.logistic import added_value, restricted_cubic_spline
from mistakes.statistics.resampling import Permuted, stratified_permutation
from mistakes.statistics.trend import DECILES, cochran_armitage, quantile_bins, rate_ratio

MATCHED = 5  # images next to each other by confidence, among which labels are permuted
MIN_MEMBERS = 2  # members that each group must have to be tested
# of a confidence: the nearest to 0 and 1 whose logit is meant
RESOLUTION = float(np.finfo(np.float32).eps)


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
    # two-sample Kolmogorov-Smirnov, where registered without pairs or strata
    p_ks: float | None = None
    # median of the differences, or for pairs of the Walsh averages, nats
    hodges_lehmann: float | None = None
    hodges_lehmann_low: float | None = None
    hodges_lehmann_high: float | None = None
    # of failure: per standard deviation of -log p (confidence bins), per decile (trend)
    odds_ratio: float | None = None
    odds_ratio_low: float | None = None
    odds_ratio_high: float | None = None
    # trend: error rate of the least likely decile over that of the most likely
    rate_ratio: float | None = None
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
    """Test one hypothesis on one set by the test ``kind``, one of TESTS.

    Where a group has fewer than 2 members there is no evidence: p is 1, A12 0.5 within [0, 1].
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
    if min(len(f), len(s)) < MIN_MEMBERS:
        nothing: dict[str, Any] = {"difference": 0.0, "a12": 0.5, "a12_low": 0.0, "a12_high": 1.0}
        nothing |= {"a12_null_sd": None, "p": 1.0, "second_test": SECOND[kind], "p_second": 1.0}
        return Result(**labels, **nothing)
    # each test draws from a stream of its own, so that adding a hypothesis changes no other
    rng = np.random.default_rng([settings.seed, *f"{hypothesis}.{name}".encode()])
    found = TESTS[kind](sample, settings, rng)
    strata = np.zeros(len(f) + len(s)) if found.strata is None else found.strata
    parts = effect_sizes.parts_of(strata[: len(f)], strata[len(f) :])
    a12, low, high = effect_sizes.a12(
        f,
        s,
        effect_sizes.WHOLE if found.strata is None else parts,  # the effect of what is tested
        kind == "permutation_paired",
        settings.bootstrap,
        settings.confidence_level,
        rng,
    )
    return Result(
        **labels,
        difference=found.difference,
        a12=a12,
        a12_low=low,
        a12_high=high,
        p=found.p,
        second_test=SECOND[kind],
        a12_null_sd=effect_sizes.a12_null_sd(len(f), len(s), parts),
        p_second=found.p_second,
        p_ks=found.p_ks,
        **found.effects,
    )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a test found, and what it found it by.

    difference : mean -log p of failures minus that of successes, nats, within strata where so
    tested. null : the statistic under the null, (resamples,); None where p has a closed form.
    strata : (n,) of the pooled images, within which labels were permuted. p_second : of SECOND.
    effects : the effect sizes that belong to the test, by the columns of Result.
    """

    difference: float
    p: float
    null: Array | None
    p_second: float
    effects: dict[str, Any]
    strata: Array | None = None
    p_ks: float | None = None


def permutation(sample: Sample, settings: Settings, rng: np.random.Generator) -> Evidence:
    """Test whether the mean -log p of failures is larger, with all labels permuted.

    Next to it Mann and Whitney's U, Kolmogorov and Smirnov's test, and Hodges and Lehmann's shift.
    """
    f, s = sample.failures.scores, sample.successes.scores
    found = stats.permutation_test(
        (f, s), _mean_difference, permutation_type="independent", **_resampled(settings, rng)
    )
    return Evidence(
        difference=float(found.statistic),
        p=float(found.pvalue),
        null=found.null_distribution,
        p_second=_mann_whitney(f, s),
        p_ks=float(stats.ks_2samp(f, s, alternative="less", method="asymp").pvalue),
        effects=_shift(*effect_sizes.hodges_lehmann(f, s, settings.confidence_level)),
    )


def permutation_paired(sample: Sample, settings: Settings, rng: np.random.Generator) -> Evidence:
    """Flip the sign of each pair's difference: under the null its members are exchangeable.

    Next to it Wilcoxon's signed-rank test, and the shift of the pairs.
    """
    f, s = sample.failures.scores, sample.successes.scores

    def mean(difference: Array, axis: int = -1) -> Any:
        return difference.mean(axis=axis)

    found = stats.permutation_test(
        (f - s,), mean, permutation_type="samples", **_resampled(settings, rng)
    )
    # where no pair differs, scipy's p is NaN
    p_second = stats.wilcoxon(f, s, alternative="greater").pvalue if (f != s).any() else 1.0
    return Evidence(
        difference=float(found.statistic),
        p=float(found.pvalue),
        null=found.null_distribution,
        p_second=float(p_second),
        effects=_shift(*effect_sizes.hodges_lehmann_paired(f - s, settings.confidence_level)),
    )


def permutation_within_predicted_class(
    sample: Sample, settings: Settings, rng: np.random.Generator
) -> Evidence:
    """Permute labels among images of one predicted class only.

    Next to it Mann and Whitney's U and the shift, over all classes together.
    """
    f, s = sample.failures.scores, sample.successes.scores
    strata = sample.pooled("classes")
    found = _within(sample, strata, settings, rng)
    return Evidence(
        difference=found.statistic,
        p=found.pvalue,
        null=found.null,
        strata=strata,
        p_second=_mann_whitney(f, s),
        effects=_shift(*effect_sizes.hodges_lehmann(f, s, settings.confidence_level)),
    )


def permutation_matched_on_confidence(
    sample: Sample, settings: Settings, rng: np.random.Generator
) -> Evidence:
    """Permute labels among five images next to each other by confidence: does the density say more
    than that?

    Next to it a likelihood-ratio test and the odds ratio of the standardised -log p, in a logistic
    regression that knows a flexible function of the confidence's logit.
    """
    msp = sample.pooled("msp")
    return _at_confidence(sample, max(1, len(msp) // MATCHED), settings, rng)


def permutation_within_confidence_bins(
    sample: Sample, settings: Settings, rng: np.random.Generator
) -> Evidence:
    """Do the same in ``settings.bins`` bins. Where these are so wide that the error rate differs
    within one, more than a share alpha of true nulls is rejected: permutation_matched_on_confidence
    holds its level.
    """
    return _at_confidence(sample, settings.bins, settings, rng)


def _at_confidence(
    sample: Sample, bins: int, settings: Settings, rng: np.random.Generator
) -> Evidence:
    strata = quantile_bins(sample.pooled("msp"), bins)
    found = _within(sample, strata, settings, rng)
    confidence = np.clip(-sample.pooled("msp"), RESOLUTION, 1 - RESOLUTION)
    known = restricted_cubic_spline(np.log(confidence / (1 - confidence)))
    scores = sample.pooled("scores")
    p_second, odds = _odds(
        known, scores / (scores.std() or 1.0), sample.failed, settings.confidence_level
    )
    return Evidence(
        difference=found.statistic,
        p=found.pvalue,
        null=found.null,
        strata=strata,
        p_second=p_second,
        effects=odds,
    )


def trend(sample: Sample, settings: Settings, rng: np.random.Generator) -> Evidence:
    """Cochran and Armitage's test: does the error rate rise over the deciles of -log p?

    sample : failures and successes of one set of images. Next to it a logistic regression on the
    number of the decile, and the ratio of the extreme deciles' error rates.
    """
    f, s = sample.failures.scores, sample.successes.scores
    scores, failed, level = sample.pooled("scores"), sample.failed, settings.confidence_level
    deciles = quantile_bins(scores, DECILES).astype(float)
    p_second, odds = _odds(np.empty((len(scores), 0)), deciles, failed, level)
    shift = _shift(*effect_sizes.hodges_lehmann(f, s, level))
    return Evidence(
        difference=float(_mean_difference(f, s)),
        p=cochran_armitage(scores, failed),
        null=None,
        p_second=p_second,
        effects=shift | odds | rate_ratio(scores, failed, level),
    )


TESTS: dict[str, Callable[[Sample, Settings, np.random.Generator], Evidence]] = {
    "permutation": permutation,
    "permutation_paired": permutation_paired,
    "permutation_within_predicted_class": permutation_within_predicted_class,
    "permutation_matched_on_confidence": permutation_matched_on_confidence,
    "permutation_within_confidence_bins": permutation_within_confidence_bins,
    "cochran_armitage": trend,
}
SECOND = {  # the test that stands next to each
    "permutation": "mann_whitney_u",
    "permutation_paired": "wilcoxon_signed_rank",
    "permutation_within_predicted_class": "mann_whitney_u",
    "permutation_matched_on_confidence": "logistic_likelihood_ratio",
    "permutation_within_confidence_bins": "logistic_likelihood_ratio",
    "cochran_armitage": "logistic_likelihood_ratio",
}


def _resampled(settings: Settings, rng: np.random.Generator) -> dict[str, Any]:
    how = {"vectorized": True, "batch": 500, "alternative": "greater"}
    return how | {"n_resamples": settings.resamples, "rng": rng}


def _mean_difference(x: Array, y: Array, axis: int = -1) -> Any:
    return x.mean(axis=axis) - y.mean(axis=axis)


def _within(
    sample: Sample, strata: Array, settings: Settings, rng: np.random.Generator
) -> Permuted:
    scores, failed = sample.pooled("scores"), sample.failed
    return stratified_permutation(scores, failed, strata, settings.resamples, rng)


def _mann_whitney(f: Array, s: Array) -> float:
    return float(stats.mannwhitneyu(f, s, alternative="greater").pvalue)


def _shift(median: float, interval: effect_sizes.Interval) -> dict[str, float | None]:
    low, high = interval
    return {"hodges_lehmann": median, "hodges_lehmann_low": low, "hodges_lehmann_high": high}


def _odds(
    known: Array, score: Array, failed: Array, confidence_level: float
) -> tuple[float, dict[str, float | None]]:
    """Return the p-value of ``score``, added to ``known``, and its odds ratio with interval."""
    found = asdict(added_value(failed, known, score, confidence_level))
    return found.pop("p"), found
