"""Score every input once: test, adversarial and OOD images. Fits nothing."""

from pathlib import Path

import numpy as np
import pandas as pd

from mistakes import baselines, conformal, density, scores
from mistakes import classifier as classifiers
from mistakes.artifacts import load_arrays, load_table, save_table
from mistakes.features import Extractor
from mistakes.stage import Run, stage


@stage
def main(
    run: Run, test: Path, classifier: Path, flow: Path, detectors: Path, calibration: Path, adversarial: Path,
    ood: Path, out: Path,
) -> dict[str, float]:  # fmt: skip
    """Write out/scores.parquet: a row per input, a column per score and, with the prefix p_, its conformal p-value."""
    section = run.params.features
    fitted, others = density.load(flow), baselines.load(detectors)
    extractor = Extractor(classifiers.load(classifier), section.layer, run.device)
    calibrated = load_table(calibration).query("correct")

    def rows(source: str, name: str, z: np.ndarray, logits: np.ndarray, labels: np.ndarray, index: np.ndarray
             ) -> pd.DataFrame:  # fmt: skip
        part = scores.table(scores.score(z, logits, fitted, others), logits, labels)
        for score in (name for name in scores.NAMES if name in part):
            part[f"p_{score}"] = conformal.p_values(calibrated[score].to_numpy(), part[score].to_numpy())
        part.insert(0, "source", source)
        part.insert(1, "set", name)
        part.insert(2, "index", index)  # of the image in its set; of the clean image in test for adversarial ones
        return part

    z, logits, labels = load_arrays(test, "features", "logits", "labels")
    parts = [rows("id", "test", z, logits, labels, np.arange(len(z)))]
    for folder in sorted(adversarial.iterdir()):
        images, origin = load_arrays(folder, "images", "origin")
        batch = extractor.whole(images, section.batch_size)
        parts.append(rows("adversarial", folder.name, batch.features, batch.logits, labels[origin], origin))
    for folder in sorted(ood.iterdir()):
        (images,) = load_arrays(folder, "images")
        batch = extractor.whole(images, section.batch_size)
        nothing = np.full(len(images), -1)
        parts.append(rows("ood", folder.name, batch.features, batch.logits, nothing, np.arange(len(images))))
    table = pd.concat(parts, ignore_index=True)
    save_table(out / "scores.parquet", table)
    metrics = {f"n.{name}": int(count) for name, count in table["set"].value_counts(sort=False).items()}
    return metrics | {
        "accuracy_test": float(parts[0]["correct"].mean()),
        "nll_test": float(parts[0]["log_density"].mean()),
        "nll_test_gaussian": -float(density.evaluate(fitted.gaussian_log_prob, z).mean(dtype=np.float64)),
    }


if __name__ == "__main__":
    main()
