"""Detection: how well each score finds each set of failures, with intervals, and what a user would
see at alpha.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mistakes import progress
from mistakes.artifacts import Array
from mistakes.evaluation import score_table
from mistakes.evaluation.score_table import evaluated, successes
from mistakes.statistics import roc
from mistakes.statistics.intervals import Estimate, percentile, proportion
from mistakes.statistics.resampling import bootstrap_weights

STATISTICS = ("auroc", "aupr", "aupr_success", "fpr95")


@dataclass(frozen=True)
class Settings:
    """The operating point and the intervals."""

    alpha: float
    bootstrap: int
    confidence_level: float
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """How well every score finds every set of failures.

    sets : a row per set and score. Columns: cause, set, score, n, prevalence, and auroc, aupr,
    aupr_success, fpr95, flagged (at alpha), each with _low and _high. macro : a row per score.
    Columns: score, macro_auroc (mean over the causes) with _low and _high, auroc_CAUSE (mean over
    the sets of a cause). resampled : of each score, the mean AUROC (bootstrap,) of each cause and
    their mean ``macro``, in the same resamples for all.
    """

    sets: pd.DataFrame
    macro: pd.DataFrame
    resampled: dict[str, dict[str, Array]]
    of_sets: dict[str, dict[str, Array]]  # of each score, the resampled AUROCs of each set


def evaluate(table: pd.DataFrame, scores: tuple[str, ...], settings: Settings) -> Evaluation:
    """Evaluate every score on every set of failures, against all successes, with percentile
    bootstrap intervals.

    Images are resampled: a test image is drawn with all that comes of it, right or wrong, attacked
    by this or that. So means over attacks know that these attack the same images, and two tables of
    the same images are resampled alike.
    """
    failures, reference = evaluated(table), successes(table)
    n = int((table["origin"] == "id").sum())
    # one set of weights for all: differences between scores, and means over sets, are those of
    # paired resamples
    of_successes = _weights(reference, "test", n, settings)
    of_failures = [
        (
            _weights(part, name, len(part), settings)
            if cause == "ood"
            else _weights(part, "test", n, settings)
        )
        for (cause, name), part in failures.items()
    ]
    rows: list[list[dict[str, object]]] = []
    resampled, of_sets = {}, {}
    for score in progress.bar(scores, "scores"):
        s = reference[score].to_numpy()
        ordered = [roc.weighted(s, weights) for weights in of_successes]
        by_cause: dict[str, list[Array]] = {cause: [] for cause, _ in failures}
        of_sets[score] = dict[str, Array]()
        rows.append([])
        for (key, part), weights in zip(failures.items(), of_failures, strict=True):
            row: dict[str, object] = {
                "cause": key[0],
                "set": key[1],
                "score": score,
                "n": len(part),
            }
            row["prevalence"] = len(part) / (len(part) + len(s))
            measured, aurocs = _measure(
                part[score].to_numpy(), weights, ordered, settings.confidence_level
            )
            flagged = score_table.flagged(part, score, settings.alpha)
            rows[-1].append(
                row | measured | proportion(flagged, settings.confidence_level).columns("flagged")
            )
            by_cause[key[0]].append(aurocs)
            of_sets[score][key[1]] = aurocs
        means = {cause: np.mean(values, axis=0) for cause, values in by_cause.items()}
        macro = (
            np.mean(list(means.values()), axis=0) if means else np.full(settings.bootstrap, np.nan)
        )
        resampled[score] = means | {"macro": macro}
    flat = [row for of_a_set in zip(*rows, strict=True) for row in of_a_set]
    detection = pd.DataFrame(flat) if flat else _nothing()
    return Evaluation(detection, _macro(detection, resampled, settings), resampled, of_sets)


def _nothing() -> pd.DataFrame:
    """Return the table of sets without a row."""
    numbers = [
        "n",
        "prevalence",
        *(f"{c}{end}" for c in (*STATISTICS, "flagged") for end in ("", "_low", "_high")),
    ]
    return pd.DataFrame(columns=["cause", "set", "score", *numbers]).astype(
        dict.fromkeys(numbers, float)
    )


def _macro(
    detection: pd.DataFrame, resampled: Mapping[str, Mapping[str, Array]], settings: Settings
) -> pd.DataFrame:
    rows = []
    for score, values in resampled.items():
        plain = detection[detection["score"] == score].groupby("cause", sort=False)["auroc"].mean()
        low, high = percentile(values["macro"], settings.confidence_level)
        row = {
            "score": score,
            "macro_auroc": float(plain.mean()),
            "macro_auroc_low": low,
            "macro_auroc_high": high,
        }
        rows.append(row | {f"auroc_{cause}": float(value) for cause, value in plain.items()})
    return pd.DataFrame(rows)


def _weights(part: pd.DataFrame, images: str, n: int, settings: Settings) -> list[Array]:
    """Return weights (m, 1) of ones, the m rows of ``part`` as they are, and then those of
    resamples, in batches.

    images, n : the name of the set of images that the column ``index`` counts in, and their number.
    A resample that happens to hold no row of a small ``part`` is replaced by the rows as they are.
    """
    rng = np.random.default_rng([settings.seed, *images.encode()])
    index = part["index"].to_numpy()
    drawn = (weights[index] for weights in bootstrap_weights(n, settings.bootstrap, rng))
    return [
        np.ones((len(part), 1), np.float32),
        *(np.where(w.any(axis=0), w, np.float32(1)) for w in drawn),
    ]


def _measure(
    f: Array, weights: list[Array], of_successes: list[roc.Weighted], confidence_level: float
) -> tuple[dict[str, float], Array]:
    """Return the statistics with their intervals, and the resampled AUROCs (bootstrap,)."""
    parts = []
    for column, s in zip(weights, of_successes, strict=True):
        w = roc.weighted(f, column)
        parts.append(
            [
                roc.auroc(w, s),
                roc.average_precision(w, s),
                roc.average_precision_low(s, w),
                roc.fpr95(w, s),
            ]
        )
    found: dict[str, float] = {}
    for name, (plain, *resampled) in zip(STATISTICS, zip(*parts, strict=True), strict=True):
        low, high = percentile(np.concatenate(resampled), confidence_level)
        found |= {name: float(plain[0]), f"{name}_low": low, f"{name}_high": high}
    return found, np.concatenate([part[0] for part in parts[1:]])


def of_groups(
    evaluation: Evaluation, groups: Mapping[str, Sequence[str]], confidence_level: float
) -> pd.DataFrame:
    """Return group, score, sets and auroc, the mean over the OOD sets of a group, with its
    percentile bootstrap interval.

    groups : names of OOD sets by group. Those that are not evaluated are left out, and a group of
    none has no row.
    """
    ood = evaluation.sets[evaluation.sets["cause"] == "ood"]
    plain = ood.set_index(["score", "set"])["auroc"]
    rows = []
    for group, names in groups.items():
        there = [name for name in names if name in set(ood["set"])]
        for score, resampled in evaluation.of_sets.items() if there else ():
            drawn = np.mean([resampled[name] for name in there], axis=0)
            mean = Estimate(
                float(np.mean([plain[score, name] for name in there])),
                *percentile(drawn, confidence_level),
            )
            row = {"group": group, "score": score, "sets": " ".join(there)}
            rows.append(row | mean.columns("auroc"))
    columns = ["group", "score", "sets", "auroc", "auroc_low", "auroc_high"]
    return pd.DataFrame(rows, columns=columns)


def heat(detection: pd.DataFrame) -> pd.DataFrame:
    """Return score, cause and auroc, the mean over the sets of a cause.

    Examples
    --------
    >>> sets = {"score": ["msp", "msp"], "cause": ["ood", "ood"], "auroc": [0.7, 0.9]}
    >>> heat(pd.DataFrame(sets))["auroc"].tolist()
    [0.8]
    """
    return detection.groupby(["score", "cause"], sort=False, as_index=False)["auroc"].mean()


def roc_curves(table: pd.DataFrame, score: str, points: int = 201) -> pd.DataFrame:
    """Return cause, fpr and tpr: the share of failures flagged at ``points`` shares of successes
    flagged.

    The sets of a cause count equally; those that are not evaluated are left out.
    """
    grid = np.linspace(0, 1, points)
    # flag what lies above the quantile: at fpr 0 the highest success is not flagged
    thresholds = np.quantile(successes(table)[score].to_numpy(), 1 - grid, method="higher")
    curves: dict[str, list[Array]] = {}
    for (cause, _), part in evaluated(table).items():
        f = np.sort(part[score].to_numpy())
        tpr = 1 - np.searchsorted(f, thresholds, side="right") / len(f)
        tpr[-1] = 1.0  # at fpr 1 everything is flagged
        curves.setdefault(cause, []).append(tpr)
    parts = [
        pd.DataFrame({"cause": s, "fpr": grid, "tpr": np.mean(values, axis=0)})
        for s, values in curves.items()
    ]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["cause", "fpr", "tpr"])
    )


def risk_coverage(table: pd.DataFrame, scores: Sequence[str], points: int = 101) -> pd.DataFrame:
    """Return score, coverage and risk: the share of errors among the test images that are accepted,
    where those with the lowest scores are.

    Examples
    --------
    >>> images = {"origin": "id", "set": "test", "correct": [True, False], "msp": [-0.9, -0.5]}
    >>> risk_coverage(pd.DataFrame(images), ["msp"], points=2)["risk"].tolist()
    [0.0, 0.5]
    """
    images = score_table.test(table)
    accepted = np.linspace(0, len(images), points + 1)[1:].round().astype(int).clip(min=1)
    parts = []
    for score in scores:
        wrong = ~images.sort_values(score, kind="stable")["correct"].to_numpy(dtype=bool)
        risk = wrong.cumsum()[accepted - 1] / accepted
        parts.append(
            pd.DataFrame({"score": score, "coverage": accepted / len(images), "risk": risk})
        )
    return pd.concat(parts, ignore_index=True)


def histograms(table: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Return log_density (centre of a bin, nats), group and share: how each group's log-density is
    distributed.

    Bins cover the central 99 % of all groups together; what lies outside is counted in the
    outermost bins. Sets that are not evaluated are left out.
    """
    groups: Mapping[str, Array] = {"correct": -successes(table)["nll"].to_numpy()} | {
        name if cause != "mistakes" else "mistakes": -part["nll"].to_numpy()
        for (cause, name), part in evaluated(table).items()
    }
    low, high = np.quantile(np.concatenate(list(groups.values())), [0.005, 0.995])
    if not high - low > 1e-9 * abs(high):  # all are tied
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    parts = []
    for group, values in groups.items():
        counts, _ = np.histogram(values.clip(low, high), edges)
        parts.append(
            pd.DataFrame({"log_density": centres, "group": group, "share": counts / len(values)})
        )
    return pd.concat(parts, ignore_index=True)


def deciles(table: pd.DataFrame, confidence_level: float) -> pd.DataFrame:
    """Return the error rate of test images in each decile of log-density, 1 the least likely, with
    exact intervals.

    Fewer than 10 images are as many groups of one.
    """
    test = score_table.test(table).sort_values("nll", ascending=False, kind="stable")
    rows = []
    for number, part in enumerate(
        np.array_split(np.arange(len(test)), min(10, len(test))), start=1
    ):
        wrong = ~test["correct"].to_numpy()[part]
        density = -test["nll"].to_numpy()[part]
        rows.append(
            {
                "decile": number,
                "n": len(part),
                "log_density_high": float(density.max()),
                **proportion(wrong, confidence_level).columns("error_rate"),
            }
        )
    return pd.DataFrame(rows)
