"""Score tables that are drawn, with every origin of rows."""

import numpy as np
import pandas as pd

from mistakes.detectors import conformal
from mistakes.evaluation import detection

SCORES = ("nll", "msp", "knn", "guard")
SETTINGS = detection.Settings(0.1, 100, 0.95, 0)
CALIBRATION = 200


def rows(
    origin: str, name: str, correct: np.ndarray, index: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Scores that know something, each to its own degree, and are calibrated as those of the
    pipeline are.
    """
    table = pd.DataFrame({"origin": origin, "set": name, "index": index, "correct": correct})
    common = rng.normal(size=len(correct))
    for strength, score in enumerate(SCORES, start=1):
        table[score] = (
            0.4 * strength * ~correct + 0.6 * common + 0.8 * rng.normal(size=len(correct))
        ).round(2)
        calibration = np.random.default_rng(9).normal(size=CALIBRATION)
        table[f"p_{score}"] = conformal.p_values(calibration, table[score].to_numpy())
    return table


def whole() -> pd.DataFrame:
    """Return test inputs, two attacks, two OOD sets, shifted and training inputs."""
    rng = np.random.default_rng(3)
    no = np.zeros(60, bool)
    attacked = rng.permutation(400)[:60]
    parts = [rows("id", "test", rng.random(400) > 0.1, np.arange(400), rng)]
    parts += [
        rows("adversarial", name, rng.random(60) > share, attacked, rng)
        for name, share in (("a", 0.5), ("b", 0.9))
    ]
    parts += [
        rows("ood", "far", no, np.arange(60), rng),
        rows("ood", "near", no[:30], np.arange(30), rng),
    ]
    chosen = np.sort(rng.permutation(400)[:50])
    parts += [rows("shifted", f"blur_{s}", rng.random(50) > 0.1 * s, chosen, rng) for s in (1, 3)]
    return pd.concat(
        [*parts, rows("fit", "fit", rng.random(50) > 0, np.arange(50), rng)], ignore_index=True
    )
