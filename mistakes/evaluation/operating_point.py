"""The operating point that a user runs: what is flagged at alpha, and what is missed.

Flagged is p <= alpha, p calibrated on correctly classified images of cal, or on all of cal (module
conformal).
"""

import numpy as np
import pandas as pd
from scipy import stats

from mistakes.evaluation import score_table
from mistakes.evaluation.detection import Settings
from mistakes.evaluation.score_table import evaluated, successes
from mistakes.statistics import acceptance
from mistakes.statistics.intervals import proportion

SHIFT = ("error_rate", "flagged", "accuracy_unflagged", "errors_caught")


def band(
    alpha: float, n: int, calibration: int | None, confidence_level: float
) -> tuple[float, float]:
    """Return between which shares of ``n`` successes flagged at alpha a valid score stays with
    ``confidence_level``.

    Without ``calibration``: the central interval of a binomial of n and alpha, as if the threshold
    flagged exactly alpha. With it, the number of calibration images: the threshold is the k-th
    highest of their scores, where k = floor(alpha (calibration + 1)), and flags a share P ~ Beta(k,
    calibration + 1 - k) of all successes (an order statistic of a uniform sample; Vovk,
    "Conditional validity of inductive conformal predictors", 2012). So the number flagged is
    beta-binomial, exactly, for scores without ties; ties make it smaller. Where k is 0 nothing is
    flagged.

    Examples
    --------
    >>> tuple(round(float(end), 3) for end in band(0.05, 4699, 9255, 0.95))
    (0.042, 0.058)
    """
    counts = np.arange(n + 1)
    if calibration is None:
        cumulated = stats.binom.cdf(counts, n, alpha)
    else:
        # p-values, rounded as conformal rounds them
        possible = np.arange(1, calibration + 2) / (calibration + 1)
        k = int((possible <= alpha).sum())
        if k == 0:
            return 0.0, 0.0
        cumulated = np.cumsum(stats.betabinom.pmf(counts, n, k, calibration + 1 - k))
    tail = (1 - confidence_level) / 2
    low, high = np.searchsorted(cumulated, [tail, 1 - tail])
    return float(low / n), float(min(high, n) / n)


def false_alarms(
    table: pd.DataFrame,
    scores: tuple[str, ...],
    alphas: list[float],
    calibration: int,
    confidence_level: float,
    calibrated_on_all: bool = False,
) -> pd.DataFrame:
    """Return a row per score and alpha: how many successes are flagged, and whether that is what
    alpha promises.

    calibration : how many images the p-values were calibrated on. calibrated_on_all : they were
    images of either kind, so that alpha bounds the share of all clean test images that is flagged,
    and that stands in place of successes. Columns: score, alpha, n, false_alarms (share of
    successes flagged) with its exact interval, binomial_low and _high, within_binomial, band_low
    and _high (beta-binomial, see ``band``), within. Of many rows a fraction 1 - confidence_level
    may lie outside.
    """
    reference = score_table.test(table) if calibrated_on_all else successes(table)
    n = len(reference)
    rows = []
    for alpha in alphas:
        simple, exact = (
            band(alpha, n, None, confidence_level),
            band(alpha, n, calibration, confidence_level),
        )
        for score in scores:
            hits = score_table.flagged(reference, score, alpha)
            rate = float(hits.mean())
            rows.append(
                {
                    "score": score,
                    "alpha": alpha,
                    "n": n,
                    **proportion(hits, confidence_level).columns("false_alarms"),
                    "binomial_low": simple[0],
                    "binomial_high": simple[1],
                    "within_binomial": simple[0] <= rate <= simple[1],
                    "band_low": exact[0],
                    "band_high": exact[1],
                    "within": exact[0] <= rate <= exact[1],
                }
            )
    return pd.DataFrame(rows)


def flagged(
    table: pd.DataFrame, scores: tuple[str, ...], alphas: list[float], confidence_level: float
) -> pd.DataFrame:
    """Return cause, set, score, alpha, n, flagged (share of the set's failures) and its exact
    interval.

    A row per score and alpha of each set that is evaluated.
    """
    rows = [
        {"cause": cause, "set": name, "score": score, "alpha": alpha, "n": len(part)}
        | proportion(score_table.flagged(part, score, alpha), confidence_level).columns("flagged")
        for (cause, name), part in evaluated(table).items()
        for score in scores
        for alpha in alphas
    ]
    columns = ["cause", "set", "score", "alpha", "n", "flagged", "flagged_low", "flagged_high"]
    return pd.DataFrame(rows, columns=columns)


def accepted(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    errors: list[float],
    delta: float,
    confidence_level: float,
) -> pd.DataFrame:
    """Return a row per accepted error rate: which clean test images the guard accepts, and how many
    of them are wrong.

    rows : what acceptance.curve found on cal. Columns: error (what is promised but with probability
    ``delta``), threshold, bound (on the error rate, by cal), then on the test images coverage and
    error_rate of what is accepted, each with its exact interval. Where no region keeps the promise
    threshold and bound are NaN, and nothing is accepted.
    """
    images = score_table.test(table)
    wrong = ~images["correct"].to_numpy(dtype=bool)
    found = []
    for error in errors:
        region = acceptance.largest(rows, error, delta)
        kept = images["guard"].to_numpy() <= (region.threshold if region else -np.inf)
        row = {"error": error, "threshold": np.nan, "bound": np.nan}
        if region:
            row |= {"threshold": region.threshold, "bound": region.bound}
        row |= proportion(kept, confidence_level).columns("coverage")
        found.append(row | proportion(wrong[kept], confidence_level).columns("error_rate"))
    return pd.DataFrame(found)


def undetected(table: pd.DataFrame, scores: tuple[str, ...], settings: Settings) -> pd.DataFrame:
    """Return set, score, attempted, succeeded, undetected, low, high: attack against detector.

    undetected : share of attempted images that are misclassified and not flagged at alpha, with its
    exact interval. These attacks do not know the detector.
    """
    rows = []
    for name, part in score_table.of_origin(table, "adversarial").groupby(
        "set", sort=False, observed=True
    ):
        wrong = ~part["correct"].to_numpy(dtype=bool)
        for score in scores:
            missed = wrong & ~score_table.flagged(part, score, settings.alpha)
            found = proportion(missed, settings.confidence_level)
            rows.append(
                {
                    "set": name,
                    "score": score,
                    "attempted": len(part),
                    "succeeded": int(wrong.sum()),
                    "undetected": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return pd.DataFrame(
        rows, columns=["set", "score", "attempted", "succeeded", "undetected", "low", "high"]
    )


def shift(table: pd.DataFrame, scores: tuple[str, ...], settings: Settings) -> pd.DataFrame:
    """Return a row per corruption, severity and score: what shift does to the classifier, and how
    much is caught.

    Columns: kind, severity, score, n, then each with its exact interval error_rate, flagged (share
    of all images at alpha), accuracy_unflagged (among the images not flagged) and errors_caught
    (share of errors that is flagged). The sets are those of cause ``shifted``, named
    KIND_SEVERITY; kind ``clean``, severity 0, are the clean originals of the same images. A share
    of nothing is NaN, within 0 and 1.
    """
    shifted, clean = score_table.of_origin(table, "shifted"), score_table.test(table)
    parts = {"clean_0": clean[clean["index"].isin(shifted["index"])]} if len(shifted) else {}
    parts |= dict(iter(shifted.groupby("set", sort=False, observed=True)))
    rows = []
    for name, part in parts.items():
        kind, _, severity = str(name).rpartition("_")
        wrong = ~part["correct"].to_numpy(dtype=bool)
        for score in scores:
            hits = score_table.flagged(part, score, settings.alpha)
            row = {"kind": kind, "severity": int(severity), "score": score, "n": len(part)}
            for column, of in zip(SHIFT, (wrong, hits, ~wrong[~hits], hits[wrong]), strict=True):
                row |= proportion(of, settings.confidence_level).columns(column)
            rows.append(row)
    columns = [f"{column}{end}" for column in SHIFT for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["kind", "severity", "score", "n", *columns])
