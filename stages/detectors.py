"""Fit the baselines on fit, and score cal: what every later p-value is calibrated on."""

from pathlib import Path

from mistakes import baselines, density, scores
from mistakes.artifacts import load_arrays, save_table
from mistakes.stage import Run, stage


@stage
def main(run: Run, fit: Path, cal: Path, flow: Path, out: Path) -> dict[str, float]:
    """Write out/baselines.safetensors and out/calibration.parquet, a row per image of cal.

    MLflow is told what each baseline costs to fit, and to score cal with: cost.NAME.fit_seconds and so on.
    """
    settings = baselines.Settings(**run.params.detectors.model_dump())
    z, logits, labels = load_arrays(cal, "features", "logits", "labels")
    z_fit, logits_fit, labels_fit = load_arrays(fit, "features", "logits", "labels")
    fitted, costs = baselines.measure(z_fit, logits_fit, labels_fit, settings, z, logits)
    baselines.save(fitted, out / "baselines.safetensors")
    run.note(**{f"cost.{key}": value for key, value in costs.items()})
    calibration = scores.table(scores.score(z, logits, density.load(flow), fitted), logits, labels)
    save_table(out / "calibration.parquet", calibration)
    return {"n_cal": len(calibration), "n_cal_correct": int(calibration["correct"].sum())}


if __name__ == "__main__":
    main()
