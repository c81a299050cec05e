"""Fit the baselines on fit, and score cal: what every later p-value is calibrated on."""

from pathlib import Path

from mistakes import baselines, density, scores
from mistakes.artifacts import load_arrays, save_table
from mistakes.stage import Run, stage


@stage
def main(run: Run, fit: Path, cal: Path, flow: Path, out: Path) -> dict[str, float]:
    """Write out/baselines.safetensors and out/calibration.parquet, a row per image of cal."""
    section = run.params.detectors
    z, labels = load_arrays(fit, "features", "labels")
    fitted = baselines.fit(z, labels, section.knn_k, section.knn_bank, section.seed)
    baselines.save(fitted, out / "baselines.safetensors")
    z, logits, labels = load_arrays(cal, "features", "logits", "labels")
    calibration = scores.table(scores.score(z, logits, density.load(flow), fitted), logits, labels)
    save_table(out / "calibration.parquet", calibration)
    return {"n_cal": len(calibration), "n_cal_correct": int(calibration["correct"].sum())}


if __name__ == "__main__":
    main()
