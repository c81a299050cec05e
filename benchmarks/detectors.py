"""What each baseline costs: python -m benchmarks.detectors [FEATURES_OF_FIT FEATURES_TO_SCORE]

Prints a Markdown table. The arguments are folders that stage features wrote; without them features are synthetic, as
many as Fashion-MNIST gives: 50,000 of 128 dimensions, 10 classes. Values of baselines are those of params.yaml.
"""

import sys
from pathlib import Path

import numpy as np

from mistakes import baselines, params
from mistakes.artifacts import Array, load_arrays

SCORED = 10_000


def synthetic(n: int, rng: np.random.Generator, d: int = 128, classes: int = 10) -> tuple[Array, Array, Array]:
    """Return features (n, d) after a ReLU, logits (n, classes) linear in them, and labels (n,)."""
    shape = np.random.default_rng(0)  # of the distribution, the same in every call
    means, mixing, W = (
        shape.normal(0, 2, (classes, d)),
        shape.normal(0, 1, (d, d)) / d**0.5,
        shape.normal(0, 1, (d, classes)),
    )
    labels = rng.integers(0, classes, n)
    z = np.maximum(means[labels] + rng.normal(size=(n, d)) @ mixing, 0).astype(np.float32)
    return z, z @ W.astype(np.float32), labels


def main() -> None:
    """Measure and print."""
    if len(sys.argv) == 3:
        fit, new = (load_arrays(Path(path), "features", "logits", "labels") for path in sys.argv[1:])
    else:
        fit, new = synthetic(50_000, np.random.default_rng(1)), synthetic(SCORED, np.random.default_rng(2))
    rows = np.resize(np.arange(len(new[0])), SCORED)  # repeated or cut to the same number for all
    settings = baselines.Settings(**params.load().detectors.model_dump())
    fitted, costs = baselines.measure(*fit, settings, new[0][rows], new[1][rows])
    print(f"| detector | fit (s) | score {SCORED:,} inputs (s) | state (MB) |\n|---|---:|---:|---:|")
    for name in fitted.names:
        seconds, scoring, size = (costs[f"{name}.{key}"] for key in ("fit_seconds", "score_seconds", "megabytes"))
        print(f"| {name} | {seconds:.3f} | {scoring:.3f} | {size:.2f} |")
    totals = (
        sum(v for k, v in costs.items() if k.endswith(kind)) for kind in ("fit_seconds", "score_seconds", "bytes")
    )
    print("| all | {:.3f} | {:.3f} | {:.2f} |".format(*totals))


if __name__ == "__main__":
    main()
