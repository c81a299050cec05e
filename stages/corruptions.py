"""Corrupt test images, once: covariate shift at five severities, labels kept."""

from pathlib import Path

import numpy as np

from mistakes.artifacts import load_arrays, save_arrays
from mistakes.data import corruptions, precomputed
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, test: Path, out: Path) -> dict[str, float]:
    """Write out/sets/KIND_SEVERITY/{images,origin}.npy: the same test images in each, origin their
    place in test.
    """
    section = run.params.corruptions
    if precomputed.outputs_in(test):
        return precomputed.decline("corruptions", out / "sets")
    (images,) = load_arrays(test, "images")
    origin = np.sort(np.random.default_rng(section.seed).permutation(len(images))[: section.images])
    chosen = images[origin]
    for kind in section.kinds:
        for severity in section.severities:
            corrupted = corruptions.draw(kind, severity, chosen, section.seed)
            save_arrays(out / "sets" / f"{kind}_{severity}", images=corrupted, origin=origin)
    return {}


if __name__ == "__main__":
    main()
