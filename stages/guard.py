"""Put classifier, flow and guard into one folder that users deploy for new inputs."""

from pathlib import Path

from mistakes.artifacts import load_arrays, load_csv, load_json, load_table
from mistakes.data import precomputed
from mistakes.detectors import conformal
from mistakes.pipeline.runner import Run, stage
from mistakes.serving import guard_model


@stage
def main(
    run: Run,
    val: Path,
    classes: Path,
    classifier: Path,
    flow: Path,
    guard: Path,
    calibration: Path,
    acceptance: Path,
    out: Path,
) -> dict[str, float]:
    """Write out/model/, which module guard_model and MLflow load. Of val only the shape of the
    images is looked at.
    """
    shape = (
        None
        if precomputed.outputs_in(val)
        else [int(side) for side in load_arrays(val, "images")[0].shape[1:]]
    )
    scores = load_table(calibration)["guard"].to_numpy()
    alpha = run.params.detection.alpha
    conformal.check_attainable(alpha, len(scores), "detection.alpha")
    form = guard_model.Form(
        load_json(classes),
        shape,
        getattr(run.params.raw, "size", None),
        **run.params.features.model_dump(),
        alpha=alpha,
        delta=run.params.detection.delta,
        calibration=run.params.detectors.calibration,
    )
    files = dict(zip(guard_model.FILES, (classifier, flow, guard), strict=True))
    guard_model.save(out / "model", files, scores, load_csv(acceptance), form)
    return {"n_calibrating": len(scores), "smallest_p": 1 / (len(scores) + 1)}


if __name__ == "__main__":
    main()
