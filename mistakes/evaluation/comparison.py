"""Several classifiers side by side: accuracy, the main scores on each cause of failure, and the
hypotheses.

Classifiers that differ in their seed alone are runs of one: they get a line of means too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mistakes.evaluation import differences, repeated_runs
from mistakes.evaluation.detection import Settings
from mistakes.evaluation.score_table import COMPARED
from mistakes.statistics import intervals
from mistakes.statistics.resampling import bootstrap_weights


@dataclass(frozen=True)
class Line:
    """One classifier, or the mean over several runs of one."""

    names: tuple[str, ...]
    accuracy: float  # on test images
    accuracy_low: float
    accuracy_high: float
    best: str  # the baseline of the highest macro AUROC
    scores: list[dict[str, Any]]  # what repeated_runs.across returns, of COMPARED and best


@dataclass(frozen=True)
class Comparison:
    """What stands before the evidence for each classifier.

    hypotheses : a row per hypothesis and set; ``by`` has the result of each classifier, None where
    it has none.
    """

    lines: list[Line]
    hypotheses: list[dict[str, Any]]


def groups(entries: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the names of entries of ``classifiers`` that are equal but for ``seed``, together.

    Examples
    --------
    >>> groups({"a": {"seed": 0}, "b": {"seed": 1}})
    [('a', 'b')]
    """
    found: list[tuple[dict[str, Any], list[str]]] = []
    for name, entry in entries.items():
        rest = {key: value for key, value in entry.items() if key != "seed"}
        same = next((names for known, names in found if known == rest), None)
        if same is None:
            found.append((rest, [name]))
        else:
            same.append(name)
    return [tuple(names) for _, names in found]


def compare(
    tables: Mapping[str, pd.DataFrame],
    macros: Mapping[str, pd.DataFrame],
    hypotheses: Mapping[str, Sequence[Mapping[str, Any]]],
    together: Sequence[tuple[str, ...]],
    settings: Settings,
) -> Comparison:
    """Compare classifiers by the tables of their scores and, from their stage detection, of their
    macro AUROCs.

    together : what ``groups`` returns. A line of one classifier has intervals that resample images,
    a line of several runs has intervals that resample runs and images.
    """
    lines = []
    for names in together:
        parts = [names, *((name,) for name in names)] if len(names) > 1 else [names]
        lines += [_line(part, tables, macros, settings) for part in parts]
    return Comparison(lines, _side_by_side(hypotheses))


def _line(
    names: tuple[str, ...],
    tables: Mapping[str, pd.DataFrame],
    macros: Mapping[str, pd.DataFrame],
    settings: Settings,
) -> Line:
    # one may lack a baseline
    everywhere = set.intersection(*(set(macros[name]["score"]) for name in names))
    every = pd.concat([macros[name] for name in names])
    every = every[every["score"].isin(everywhere)]
    mean = every.groupby("score", as_index=False)["macro_auroc"].mean()
    best = differences.best_baseline(mean)
    scores = tuple(dict.fromkeys([*COMPARED, best]))
    mine = {name: tables[name] for name in names}
    found = repeated_runs.across(mine, scores, settings).to_dict("records")
    return Line(names, *_accuracy(list(mine.values()), settings), best, found)


def _accuracy(tables: Sequence[pd.DataFrame], settings: Settings) -> intervals.Estimate:
    """Return the mean accuracy on test images with its interval: exact of one training, of several
    a bootstrap.

    The runs are judged on the same images, so that one resample of images holds for all.
    """
    right = np.stack(
        [
            table.loc[table["origin"] == "id", "correct"].to_numpy(dtype=np.float32)
            for table in tables
        ]
    )
    if len(tables) == 1:
        return intervals.proportion(right[0] > 0, settings.confidence_level)
    rng = np.random.default_rng(settings.seed)
    n = right.shape[1]
    of_images = np.hstack(
        [right @ weights / n for weights in bootstrap_weights(n, settings.bootstrap, rng)]
    )
    drawn = rng.integers(0, len(right), of_images.shape)
    resampled = np.take_along_axis(of_images, drawn, axis=0).mean(axis=0)
    low, high = intervals.percentile(resampled, settings.confidence_level)
    return intervals.Estimate(float(right.mean(dtype=np.float64)), low, high)


def _side_by_side(hypotheses: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    found = {
        name: {(row["hypothesis"], row["set"]): row for row in rows}
        for name, rows in hypotheses.items()
    }
    keys = sorted({key for rows in found.values() for key in rows})
    return [
        {"hypothesis": h, "set": s, "by": {name: found[name].get((h, s)) for name in found}}
        for h, s in keys
    ]
