"""Paired differences between the AUROCs of scores on the same inputs, and of their macro means."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from mistakes.evaluation.detection import Evaluation, Settings
from mistakes.evaluation.score_table import OWN, evaluated, successes
from mistakes.statistics import intervals
from mistakes.statistics.delong import delong

COLUMNS = ("cause", "set", "score", "against", "difference", "low", "high", "p")


def best_baseline(macro: pd.DataFrame) -> str:
    """Return the baseline of the highest macro AUROC in these very data, so that a gain over it is
    not flattered.

    Examples
    --------
    >>> macro = {"score": ["guard", "msp", "knn"], "macro_auroc": [0.9, 0.7, 0.8]}
    >>> best_baseline(pd.DataFrame(macro))
    'knn'
    """
    baselines = macro[~macro["score"].isin(OWN)]
    # the first where no set is evaluated
    return str(baselines.loc[baselines["macro_auroc"].fillna(0).idxmax(), "score"])


def differences(table: pd.DataFrame, evaluation: Evaluation, settings: Settings) -> pd.DataFrame:
    """Return how much higher the AUROC of every score is than that of MSP and that of the best
    baseline.

    Columns: cause, set, score, against, best (whether ``against`` is the best baseline),
    difference, low, high, and p, two-sided and not adjusted for the number of rows. In each set the
    interval and p are DeLong's; where the difference never varies p is 1. Rows with cause
    ``macro`` and set ``all`` are differences of macro AUROC, interval and p by the paired bootstrap
    (p by inversion of the percentile interval, never 0). Intervals are over images, not over
    runs. Without a set that is evaluated there is no row.
    """
    scores = list(evaluation.macro["score"])
    best = best_baseline(evaluation.macro)
    pairs = [
        (score, against)
        for against in dict.fromkeys(["msp", best])
        for score in scores
        if score != against
    ]
    reference = successes(table)[scores].to_numpy().T
    failures = evaluated(table)
    rows = list(_macro(evaluation, pairs, settings)) if failures else []
    for (cause, name), part in failures.items():
        auroc, covariance = delong(part[scores].to_numpy().T, reference)
        for score, against in pairs:
            a, b = scores.index(score), scores.index(against)
            variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
            found = _normal(auroc[a] - auroc[b], variance, settings.confidence_level)
            rows.append({"cause": cause, "set": name, "score": score, "against": against} | found)
    differences = pd.DataFrame(rows, columns=list(COLUMNS))
    differences.insert(4, "best", differences["against"] == best)
    return differences


def _normal(difference: float, variance: float, confidence_level: float) -> dict[str, float]:
    deviation = float(np.sqrt(max(variance, 0.0)))  # rounding can put a variance of 0 below 0
    if deviation < 1e-12:
        return {
            "difference": float(difference),
            "low": float(difference),
            "high": float(difference),
            "p": 1.0,
        }
    half = stats.norm.ppf((1 + confidence_level) / 2) * deviation
    p = 2 * stats.norm.sf(abs(difference) / deviation)
    return {
        "difference": float(difference),
        "low": float(difference - half),
        "high": float(difference + half),
        "p": float(p),
    }


def _macro(
    evaluation: Evaluation, pairs: list[tuple[str, str]], settings: Settings
) -> Iterator[Mapping[str, str | float]]:
    plain = evaluation.macro.set_index("score")["macro_auroc"]
    for score, against in pairs:
        resampled = evaluation.resampled[score]["macro"] - evaluation.resampled[against]["macro"]
        low, high = intervals.percentile(resampled, settings.confidence_level)
        least = 1 + min((resampled <= 0).sum(), (resampled >= 0).sum())
        yield {
            "cause": "macro",
            "set": "all",
            "score": score,
            "against": against,
            "difference": float(plain[score] - plain[against]),
            "low": low,
            "high": high,
            "p": float(min(1.0, 2 * least / (len(resampled) + 1))),
        }
