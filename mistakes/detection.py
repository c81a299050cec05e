"""Detection: how well each score finds each set of failures, with intervals, and what a user would see at alpha."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mistakes.artifacts import Array
from mistakes.resampling import Ranked, auroc, average_precision, bootstrap_weights, fpr95, rank

SOURCES = ("mistakes", "adversarial", "ood")
LEAST = 2  # failures that a set must have to be evaluated


@dataclass(frozen=True)
class Settings:
    """The operating point and the intervals."""

    alpha: float
    bootstrap: int
    confidence: float
    seed: int


def sets(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the failures of each (source, set) in a table of scores: misclassified test images, successful adversarial
    images, OOD images. A failed attack is no failure.
    """
    failures = table[~table["correct"]]
    found = {}
    for (source, name), part in failures.groupby(["source", "set"], observed=True, sort=False):
        found["mistakes" if source == "id" else str(source), str(name)] = part
    return {key: found[key] for source in SOURCES for key in found if key[0] == source}


def successes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the reference: correctly classified, clean ID test images."""
    return table[(table["source"] == "id") & table["correct"]]


def evaluate(table: pd.DataFrame, scores: tuple[str, ...], settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row per score and set, and a row per score with its macro AUROC.

    Columns of the first: source, set, score, n, prevalence, and auroc, aupr, aupr_success, fpr95, flagged, each with
    _low and _high. Columns of the second: score, auroc_SOURCE (mean over the sets of a source), macro_auroc (mean over
    the sources), with _low and _high.
    """
    failures = {key: part for key, part in sets(table).items() if len(part) >= LEAST}
    reference = successes(table)
    # one set of weights for all: differences between scores, and means over sets, are those of paired resamples
    of_successes = _weights(len(reference), settings, 0)
    rows = []
    resampled: dict[str, dict[str, list[Array]]] = {score: {source: [] for source, _ in failures} for score in scores}
    for number, (key, part) in enumerate(failures.items(), start=1):
        of_failures = _weights(len(part), settings, number)
        for score in scores:
            row, values = _row(key, score, part, reference, of_failures, of_successes, settings)
            rows.append(row)
            resampled[score][key[0]].append(values)
    detection = pd.DataFrame(rows)
    return detection, _macro(detection, resampled, settings)


def _macro(
    detection: pd.DataFrame, resampled: Mapping[str, Mapping[str, list[Array]]], settings: Settings
) -> pd.DataFrame:
    rows = []
    for score, by_source in resampled.items():
        means = np.mean([np.mean(values, axis=0) for values in by_source.values()], axis=0)
        plain = detection[detection["score"] == score].groupby("source")["auroc"].mean()
        row = {"score": score, "macro_auroc": float(plain.mean()), **_interval("macro_auroc", means, settings)}
        rows.append(row | {f"auroc_{source}": float(plain[source]) for source in by_source})
    return pd.DataFrame(rows)


def _weights(n: int, settings: Settings, stream: int) -> list[Array]:
    return list(bootstrap_weights(n, settings.bootstrap, np.random.default_rng([settings.seed, stream])))


def _row(key: tuple[str, str], score: str, part: pd.DataFrame, reference: pd.DataFrame, of_failures: list[Array],
         of_successes: list[Array], settings: Settings) -> tuple[dict[str, object], Array]:  # fmt: skip
    f, s = part[score].to_numpy(), reference[score].to_numpy()
    row: dict[str, object] = {"source": key[0], "set": key[1], "score": score, "n": len(f)}
    row["prevalence"] = len(f) / (len(f) + len(s))
    ranked, swapped = rank(f, s), rank(-s, -f)
    plain = _statistics(ranked, swapped, np.ones((len(f), 1), np.float32), np.ones((len(s), 1), np.float32))
    parts = [_statistics(ranked, swapped, *weights) for weights in zip(of_failures, of_successes, strict=True)]
    resampled = {name: np.concatenate([part[name] for part in parts]) for name in plain}
    for name, value in plain.items():
        row |= {name: float(value[0]), **_interval(name, resampled[name], settings)}
    row |= share("flagged", part[f"p_{score}"].to_numpy() <= settings.alpha, settings.confidence)
    return row, resampled["auroc"]


def _statistics(ranked: Ranked, swapped: Ranked, failures: Array, successes_: Array) -> dict[str, Array]:
    return {
        "auroc": auroc(ranked, failures, successes_),
        "aupr": average_precision(ranked, failures, successes_),
        "aupr_success": average_precision(swapped, successes_, failures),
        "fpr95": fpr95(ranked, failures, successes_),
    }


def _interval(name: str, values: Array, settings: Settings) -> dict[str, float]:
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def share(name: str, hits: Array, confidence: float) -> dict[str, float]:
    """Return the share of true values in ``hits``, bool (n,), and its exact (Clopper-Pearson) interval."""
    found = stats.binomtest(int(hits.sum()), len(hits))
    interval = found.proportion_ci(confidence, method="exact")
    return {name: found.statistic, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}


def false_alarms(table: pd.DataFrame, scores: tuple[str, ...], settings: Settings) -> pd.DataFrame:
    """Return, for each score, the realised share of successes that are flagged at alpha, with an exact interval."""
    reference = successes(table)
    flagged = {score: reference[f"p_{score}"].to_numpy() <= settings.alpha for score in scores}
    rows = [{"score": s, **share("false_alarms", hits, settings.confidence)} for s, hits in flagged.items()]
    return pd.DataFrame(rows).assign(n=len(reference))


def roc_curves(table: pd.DataFrame, score: str, points: int = 201) -> pd.DataFrame:
    """Return source, fpr and tpr: the share of failures flagged at ``points`` shares of successes flagged.

    The sets of a source count equally.
    """
    grid = np.linspace(0, 1, points)
    # flag what lies above the quantile: at fpr 0 the highest success is not flagged
    thresholds = np.quantile(successes(table)[score].to_numpy(), 1 - grid, method="higher")
    curves: dict[str, list[Array]] = {}
    for (source, _), part in sets(table).items():
        f = np.sort(part[score].to_numpy())
        tpr = 1 - np.searchsorted(f, thresholds, side="right") / len(f)
        tpr[-1] = 1.0  # at fpr 1 everything is flagged
        curves.setdefault(source, []).append(tpr)
    parts = [pd.DataFrame({"source": s, "fpr": grid, "tpr": np.mean(values, axis=0)}) for s, values in curves.items()]
    return pd.concat(parts, ignore_index=True)


def histograms(table: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Return log_density (centre of a bin, nats), group and share: how each group's log-density is distributed.

    Bins cover the central 99 % of all groups together; what lies outside is counted in the outermost bins.
    """
    groups: Mapping[str, Array] = {"correct": -successes(table)["log_density"].to_numpy()} | {
        name if source != "mistakes" else "mistakes": -part["log_density"].to_numpy()
        for (source, name), part in sets(table).items()
    }
    low, high = np.quantile(np.concatenate(list(groups.values())), [0.005, 0.995])
    edges = np.linspace(low, high, bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    parts = []
    for group, values in groups.items():
        counts, _ = np.histogram(values.clip(low, high), edges)
        parts.append(pd.DataFrame({"log_density": centres, "group": group, "share": counts / len(values)}))
    return pd.concat(parts, ignore_index=True)


def deciles(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Return the error rate of test images in each decile of log-density, 1 the least likely, with exact intervals."""
    test = table[table["source"] == "id"].sort_values("log_density", ascending=False, kind="stable")
    rows = []
    for number, part in enumerate(np.array_split(np.arange(len(test)), 10), start=1):
        wrong = ~test["correct"].to_numpy()[part]
        density = -test["log_density"].to_numpy()[part]
        rows.append({"decile": number, "n": len(part), "log_density_high": float(density.max()),
                     **share("error_rate", wrong, confidence)})  # fmt: skip
    return pd.DataFrame(rows)
