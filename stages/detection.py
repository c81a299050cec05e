"""Evaluate every score as a detector of every set of failures."""

from pathlib import Path

import pandas as pd

from mistakes import conformal, detection
from mistakes.artifacts import load_table, save_csv
from mistakes.stage import Run, stage

SHOWN = ("auroc", "aupr", "aupr_success", "fpr95", "flagged")


@stage
def main(run: Run, table: Path, calibration: Path, out: Path) -> dict[str, float]:
    """Write tables (detection, macro, false_alarms) and curves (roc, histogram, deciles), all CSV."""
    section = run.params.detection
    conformal.require(section.alpha, int(load_table(calibration)["correct"].sum()))
    settings = detection.Settings(section.alpha, section.bootstrap, section.confidence, section.seed)
    inputs = load_table(table)
    scores = tuple(column.removeprefix("p_") for column in inputs.columns if column.startswith("p_"))
    detected, macro = detection.evaluate(inputs, scores, settings)
    alarms = detection.false_alarms(inputs, scores, settings)
    written: dict[str, pd.DataFrame] = {
        "detection": detected,
        "macro": macro,
        "false_alarms": alarms,
        "roc": detection.roc_curves(inputs, "log_density"),
        "histogram": detection.histograms(inputs),
        "deciles": detection.deciles(inputs, section.confidence),
    }
    for name, part in written.items():
        save_csv(out / f"{name}.csv", part)
    metrics = {
        f"{column}.{row['source']}.{row['set']}.{row['score']}": row[column]
        for row in detected.to_dict("records")
        for column in SHOWN
    }
    columns = ("macro_auroc", "macro_auroc_low", "macro_auroc_high")
    metrics |= {f"{column}.{row['score']}": row[column] for row in macro.to_dict("records") for column in columns}
    return metrics | {f"false_alarms.{row['score']}": row["false_alarms"] for row in alarms.to_dict("records")}


if __name__ == "__main__":
    main()
