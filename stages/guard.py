"""Put classifier, flow and guard into one folder that answers for new inputs: what a user deploys."""

from pathlib import Path

from mistakes import conformal, deployment, given
from mistakes.artifacts import load_arrays, load_json, load_table
from mistakes.stage import Run, stage


@stage
def main(
    run: Run, val: Path, classes: Path, classifier: Path, flow: Path, guard: Path, calibration: Path, out: Path
) -> dict[str, float]:
    """Write out/model/, which module deployment and MLflow load. Of val only the shape of the images is looked at."""
    shape = None if given.outputs_in(val) else [int(side) for side in load_arrays(val, "images")[0].shape[1:]]
    scores = load_table(calibration)["guard"].to_numpy()
    alpha = run.params.detection.alpha
    conformal.require(alpha, len(scores))
    form = deployment.Form(
        load_json(classes), shape, getattr(run.params.raw, "size", None), **run.params.features.model_dump(),
        alpha=alpha, calibration=run.params.detectors.calibration,
    )  # fmt: skip
    files = dict(zip(deployment.FILES, (classifier, flow, guard), strict=True))
    deployment.save(out / "model", files, scores, form)
    return {"n_calibrating": len(scores), "smallest_p": 1 / (len(scores) + 1)}


if __name__ == "__main__":
    main()
