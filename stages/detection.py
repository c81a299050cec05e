"""Evaluate every score as a detector of every set of failures."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mistakes.artifacts import load_table, save_csv
from mistakes.detectors import conformal
from mistakes.evaluation import detection, differences, mixtures, operating_point, score_table
from mistakes.pipeline.runner import Run, stage

SHOWN = ("auroc", "aupr", "aupr_success", "fpr95", "flagged")
MACRO = ("macro_auroc", "macro_auroc_low", "macro_auroc_high")
AREAS = ("aurc", "e_aurc", "augrc", "precision")


def named(table: pd.DataFrame, columns: Iterable[str], *keys: str) -> dict[str, float]:
    """Return every value as a metric COLUMN.KEY...; values that there are none of are left out."""
    rows = table.to_dict("records")
    found = {
        ".".join([column, *(row[key] for key in keys)]): row[column]
        for row in rows
        for column in columns
    }
    return {name: value for name, value in found.items() if pd.notna(value)}


@stage
def main(run: Run, table: Path, calibration: Path, out: Path) -> dict[str, float]:
    """Write tables and curves, all CSV; what each holds stands with the function that makes it."""
    section, calibrated_on_all = run.params.detection, run.params.detectors.calibration == "all"
    n_cal = len(load_table(calibration))
    conformal.check_attainable(section.alpha, n_cal)
    level = section.confidence_level
    settings = detection.Settings(section.alpha, section.bootstrap, level, section.seed)
    inputs = score_table.load(table)
    scores = score_table.scores(inputs)
    found = detection.evaluate(inputs, scores, settings)
    for sentence in score_table.left_out(inputs):
        run.warn(sentence)
    written: dict[str, pd.DataFrame] = {
        "detection": found.sets,
        "macro": found.macro,
        "heat": detection.heat(found.sets),
        "differences": differences.differences(inputs, found, settings),
        "mixtures": mixtures.mixtures(inputs, scores, section.mixtures, section.alpha),
        "false_alarms": operating_point.false_alarms(
            inputs, scores, section.alphas, n_cal, level, calibrated_on_all
        ),
        "flagged": operating_point.flagged(inputs, scores, section.alphas, level),
        "undetected": operating_point.undetected(inputs, scores, settings),
        "shift": operating_point.shift(inputs, scores, settings),
        "roc": detection.roc_curves(inputs, "nll"),
        "histogram": detection.histograms(inputs),
        "deciles": detection.deciles(inputs, level),
    }
    for name, part in written.items():
        save_csv(out / f"{name}.csv", part)
    metrics = named(found.sets, SHOWN, "cause", "set", "score") | named(found.macro, MACRO, "score")
    macro = written["differences"].query("cause == 'macro'")
    for reference, rows in (
        ("msp", macro.query("against == 'msp'")),
        ("best", macro.query("best")),
    ):
        name = f"macro_difference_{reference}"
        columns = {"difference": name, "low": f"{name}_low", "high": f"{name}_high"}
        metrics |= named(rows.rename(columns=columns), columns.values(), "score")
    metrics |= named(written["mixtures"], AREAS, "mixture", "score")
    metrics |= named(written["undetected"], ["undetected"], "set", "score")
    for alpha, rows in written["false_alarms"].groupby("alpha"):
        digits = (
            np.format_float_positional(alpha).removeprefix("0.").ljust(2, "0")
        )  # of 0.01 and 0.1: 01 and 10
        metrics |= named(
            rows.add_suffix(f"_{digits}"), [f"false_alarms_{digits}"], f"score_{digits}"
        )
        metrics |= named(rows, ["false_alarms"], "score") if alpha == section.alpha else {}
    return metrics


if __name__ == "__main__":
    main()
