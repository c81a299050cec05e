"""Fit the baselines and the guard on fit and val, and score cal: what every later p-value is
calibrated on.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mistakes.artifacts import load_arrays, load_json, save_csv, save_json, save_table
from mistakes.config import classifiers
from mistakes.data import features
from mistakes.detectors import baselines, budget, density, gaussians, scoring
from mistakes.detectors import guard as guards
from mistakes.errors import InputError
from mistakes.networks import label_budget
from mistakes.pipeline.runner import Run, stage
from mistakes.statistics import acceptance


def labels_known(run: Run, truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the labels (n,) of fit that the classifier had, and for the others its predictions."""
    if isinstance(run.classifier, classifiers.Untrained):
        return truth  # trained elsewhere: it had them all, as far as is known here
    return label_budget.fill_in(truth, logits, run.classifier.labels, run.classifier.seed)


def fit_baselines(
    run: Run, training: features.Batch, labels: np.ndarray, new: features.Batch
) -> baselines.Baselines:
    """Fit the baselines and score ``new``; MLflow gets what that costs (cost.NAME.fit_seconds)."""
    section = run.params.detectors.model_dump(exclude={"calibration", "guard"})
    fitted, costs = baselines.measure(
        training.features,
        training.logits,
        labels,
        baselines.Settings(**section),
        new.features,
        new.logits,
        run.device,
    )
    run.note(**{f"cost.{key}": value for key, value in costs.items()})
    for name, reason in fitted.left_out.items():
        run.warn(f"the baseline {name} is not applicable and left out: {reason}")
    return fitted


def fit_guard(
    run: Run,
    training: features.Batch,
    validation: features.Batch,
    densities: np.ndarray,
    right: np.ndarray,
) -> tuple[guards.Guard, pd.DataFrame]:
    """Return the guard, and the curve by which its shares were chosen, of no row where they were
    not. densities : of val. right : bool (n,), which of val count as correctly classified.
    """
    section = run.params.detectors.guard
    settings = guards.Settings(**section.model_dump(exclude={"shares", "budget"}))
    guard = guards.fit(training, validation.take(right), densities[right], settings, run.device)
    if section.shares != "budget":
        guard.weigh(section.shares)
        return guard, budget.NOTHING
    surprises = guard.explain(validation, densities)
    shares, curve = budget.chosen(surprises, guard.names, ~right, section.budget)
    guard.weigh(shares)
    if not len(curve):
        run.warn(budget.UNTOLD.format((~right).sum()))
    return guard, curve


@stage
def main(
    run: Run, fit: Path, val: Path, cal: Path, classes: Path, flow: Path, out: Path
) -> dict[str, float]:
    """Write out/{baselines,guard}.safetensors, calibration.parquet, a row per image of cal that
    calibrates, shares.csv, the curve by which the guard's shares were chosen, acceptance.csv, its
    errors on cal, and applicability.json: why a baseline is left out, and the guard's shares.
    """
    training, validation, calibration = (features.load(part) for part in (fit, val, cal))
    (truth_fit,), (truth_val,), (truth,) = (load_arrays(part, "labels") for part in (fit, val, cal))
    known = labels_known(run, truth_fit, training.logits)
    fitted = fit_baselines(run, training, known, calibration)
    baselines.save(fitted, out / "baselines.safetensors")
    for which, of in (("labelled", known), ("predicted", training.predicted)):
        for sentence in gaussians.rare(torch.as_tensor(of.copy()), load_json(classes), which):
            run.warn(sentence)

    # labels of val and cal say from here on only which inputs are classified correctly
    calibrated_on_all = run.params.detectors.calibration == "all"
    right = (validation.predicted == truth_val) | calibrated_on_all
    flow_density = density.load(flow).to(run.device)
    densities = density.log_joints(flow_density, validation)
    guard, curve = fit_guard(run, training, validation, densities, right)
    guards.save(guard, out / "guard.safetensors")
    save_csv(out / "shares.csv", curve)

    found = scoring.Detectors(flow_density, fitted, guard).score(calibration)
    table = scoring.table(found, calibration.logits, truth)
    of_val = guard.score(validation, densities)
    accepted = acceptance.curve(of_val, found["guard"], ~table["correct"].to_numpy())
    save_csv(out / "acceptance.csv", accepted)
    calibrating = table[table["correct"] | calibrated_on_all].reset_index(drop=True)
    if not len(calibrating):
        problem = f"none of {len(table)} images is classified correctly, so none calibrates a score"
        raise InputError(cal, problem)
    save_table(out / "calibration.parquet", calibrating)
    used = dict(zip(guard.names, guard.shares.tolist(), strict=True))
    save_json(out / "applicability.json", {"baselines": fitted.left_out, "guard_shares": used})
    return {"n_calibrating": len(calibrating)}


if __name__ == "__main__":
    main()
