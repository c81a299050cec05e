"""Evaluate every score as a detector of every set of failures."""

from pathlib import Path

import pandas as pd

from mistakes.artifacts import load_csv, load_table, save_csv, save_json
from mistakes.detectors import conformal
from mistakes.evaluation import (
    detection,
    differences,
    headline,
    mixtures,
    operating_point,
    score_table,
)
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, table: Path, calibration: Path, acceptance: Path, out: Path) -> dict[str, float]:
    """Write tables and curves, all CSV; what each holds stands with the function that makes it.

    And out/summary.json, few enough numbers for a line: what dvc metrics and dvc exp show.
    """
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
        "groups": detection.of_groups(found, section.groups, level),
        "heat": detection.heat(found.sets),
        "differences": differences.differences(inputs, found, settings),
        "mixtures": mixtures.mixtures(inputs, scores, section.mixtures, section.alpha),
        "false_alarms": operating_point.false_alarms(
            inputs, scores, section.alphas, n_cal, level, calibrated_on_all
        ),
        "flagged": operating_point.flagged(inputs, scores, section.alphas, level),
        "accepted": operating_point.accepted(
            inputs, load_csv(acceptance), section.errors, section.delta, level
        ),
        "undetected": operating_point.undetected(inputs, scores, settings),
        "shift": operating_point.shift(inputs, scores, settings),
        "roc": pd.concat(
            [detection.roc_curves(inputs, score).assign(score=score) for score in headline.SHOWN]
        ),
        "risk_coverage": detection.risk_coverage(inputs, score_table.COMPARED),
        "histogram": detection.histograms(inputs),
        "deciles": detection.deciles(inputs, level),
    }
    for name, part in written.items():
        save_csv(out / f"{name}.csv", part)
    alarms = written["false_alarms"].query("score == 'guard' and alpha == @section.alpha")
    metrics = headline.metrics(found.macro) | {
        "false_alarms": float(alarms["false_alarms"].iloc[0])
    }
    correct = score_table.test(inputs)["correct"]
    save_json(out / "summary.json", headline.summary(metrics, float(correct.mean())))
    return metrics


if __name__ == "__main__":
    main()
