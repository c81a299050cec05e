"""The few numbers that stand for all tables of stage detection: a row of MLflow, a line of DVC."""

import pandas as pd

from mistakes.evaluation.differences import best_baseline
from mistakes.evaluation.score_table import CAUSES

SHOWN = ("guard", "nll")


def metrics(macro: pd.DataFrame) -> dict[str, float]:
    """Return auroc.SCORE.CAUSE and macro.SCORE of guard and density, and macro.best_baseline.

    macro : what detection.evaluate returns. What no set was evaluated for is left out.

    Examples
    --------
    >>> rows = {"score": ["guard", "nll", "msp"], "macro_auroc": [0.9, 0.8, 0.7]}
    >>> found = metrics(pd.DataFrame(rows | {"auroc_ood": [0.95, 0.85, 0.6]}))
    >>> found["auroc.nll.ood"], found["macro.guard"], found["macro.best_baseline"]
    (0.85, 0.9, 0.7)
    """
    if not len(macro):
        return {}
    rows = macro.set_index("score")
    found = {
        f"auroc.{score}.{cause}": rows.loc[score, f"auroc_{cause}"]
        for score in SHOWN
        for cause in CAUSES
        if f"auroc_{cause}" in rows
    }
    found |= {f"macro.{score}": rows.loc[score, "macro_auroc"] for score in SHOWN}
    found["macro.best_baseline"] = rows.loc[best_baseline(macro), "macro_auroc"]
    return {key: float(value) for key, value in found.items() if pd.notna(value)}


def summary(metrics: dict[str, float], accuracy: float) -> dict[str, float]:
    """Return accuracy, the guard's AUROC of each cause, macro AUROCs of guard (macro), density and
    best baseline, and false alarms: eight numbers with short names, which fit a line.

    Examples
    --------
    >>> summary({"auroc.guard.ood": 0.95, "macro.nll": 0.8, "false_alarms": 0.05}, 0.9)
    {'accuracy': 0.9, 'ood': 0.95, 'macro_nll': 0.8, 'false_alarms': 0.05}
    """
    names = {f"auroc.guard.{cause}": cause for cause in CAUSES}
    names |= {"macro.guard": "macro", "macro.nll": "macro_nll"}
    names |= {"macro.best_baseline": "macro_best", "false_alarms": "false_alarms"}
    found = {name: metrics[key] for key, name in names.items() if key in metrics}
    return {"accuracy": accuracy} | found
