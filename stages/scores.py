"""Score every input once: test, training, adversarial, OOD and corrupted images. Fits nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from mistakes.artifacts import load_arrays, load_table, save_csv
from mistakes.data import features, precomputed
from mistakes.detectors import baselines, conformal, density, scoring
from mistakes.detectors import guard as guards
from mistakes.errors import InputError
from mistakes.evaluation import score_table
from mistakes.networks import extraction, models
from mistakes.pipeline.runner import Run, stage


def require_successes(path: Path, test: pd.DataFrame) -> None:
    """Refuse test images of which too few are classified correctly to compare failures with."""
    right = int(test["correct"].sum())
    if right < score_table.MIN_FAILURES:
        least = (
            f"at least {score_table.MIN_FAILURES}, which failures are compared with"
            " (labels in the order of the logits?)"
        )
        raise InputError(
            path, f"{right} of {len(test)} images are classified correctly, expected {least}"
        )


def some_of(
    fit: Path, test: features.Batch, seed: int
) -> tuple[features.Batch, np.ndarray, np.ndarray]:
    """Return outputs, labels and indices of as many images of fit as there are in test.

    Where test has views these have one look: training images are asked for their density alone.
    """
    (labels,) = load_arrays(fit, "labels")
    drawn = np.random.default_rng(seed).permutation(len(labels))
    some = np.sort(drawn[: len(test.logits)])
    batch = features.load(fit).take(some)
    if test.views is not None:
        batch = replace(batch, views=log_softmax(batch.logits, axis=1))
    return batch, labels[some], some


@stage
def main(
    run: Run,
    fit: Path,
    test: Path,
    classifier: Path,
    flow: Path,
    baseline: Path,
    guard: Path,
    calibration: Path,
    adversarial: Path,
    ood: Path,
    novel_classes: Path,
    corruptions: Path,
    out: Path,
) -> dict[str, float]:
    """Write out/scores.parquet: a row per input, a column per score and, with the prefix p_, its
    conformal p-value; and out/sets.csv: origin, set and n of each set.
    """
    fitted = scoring.Detectors(density.load(flow), baselines.load(baseline), guards.load(guard))
    detectors = fitted.to(run.device)
    network = None if precomputed.outputs_in(novel_classes) else models.load(classifier)
    outputs = extraction.batch_loader(
        network, **run.params.features.model_dump(), device=run.device
    )
    calibrated = load_table(calibration)

    def rows(
        origin: str, name: str, batch: features.Batch, labels: np.ndarray, index: np.ndarray
    ) -> pd.DataFrame:
        found, reason = detectors.examine(batch, f"{origin} inputs of {name}")
        place = density.place(detectors.density, batch.features)
        known = {"origin": origin, "set": name, "index": index}
        seen = {"reason": reason, "map_1": place[:, 0], "map_2": place[:, 1]}
        p = {
            f"p_{score}": conformal.p_values(calibrated[score].to_numpy(), values)
            for score, values in found.items()
        }
        return pd.DataFrame(known | scoring.outcome(batch.logits, labels) | seen | found | p)

    stored, (labels,) = features.load(test), load_arrays(test, "labels")
    parts = [rows("id", "test", stored, labels, np.arange(len(labels)))]
    require_successes(test, parts[0])
    parts.append(rows("fit", "fit", *some_of(fit, stored, run.params.scores.seed)))
    for kind, root in (("adversarial", adversarial), ("shifted", corruptions)):
        for folder in precomputed.folders(root):
            _, origins = load_arrays(folder, "images", "origin")
            parts.append(rows(kind, folder.name, outputs(folder), labels[origins], origins))
    near = [novel_classes] if len(load_arrays(novel_classes, "labels")[0]) else []
    for folder in [*precomputed.folders(ood), *near]:
        n = len((batch := outputs(folder)).logits)
        parts.append(rows("ood", folder.name, batch, np.full(n, -1), np.arange(n)))
    table = pd.concat(parts, ignore_index=True)
    score_table.save(out / "scores.parquet", table)
    sizes = table.groupby(["origin", "set"], sort=False, as_index=False).size()
    save_csv(out / "sets.csv", sizes.rename(columns={"size": "n"}))
    gaussian = density.evaluate(detectors.density.gaussian_log_prob, stored.features)
    return {
        "accuracy_test": float(parts[0]["correct"].mean()),
        "nll_test": float(parts[0]["nll"].mean()),
        "nll_test_gaussian": -float(gaussian.mean(dtype=np.float64)),
    }


if __name__ == "__main__":
    main()
