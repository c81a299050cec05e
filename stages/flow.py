"""Fit the flow to the features, without labels."""

from pathlib import Path

import pandas as pd

from mistakes.artifacts import load_arrays, save_csv
from mistakes.detectors import density
from mistakes.errors import InputError
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, fit: Path, val: Path, out: Path) -> dict[str, float]:
    """Write out/flow.safetensors: flow, preprocessing, and the Gaussian it is held against."""
    section = run.params.flow
    (z,) = load_arrays(fit, "features")
    (select,) = load_arrays(val, "features")
    if section.split == "val":
        cut = len(select) * 4 // 5
        z, select = select[:cut], select[cut:]
    optimisation = density.Optimisation(
        section.epochs,
        section.patience,
        section.batch_size,
        section.learning_rate,
        section.gradient_clip,
        section.seed,
    )
    try:
        fitted = density.fit(
            z,
            select,
            section.kind,
            section.transform,
            section.components,
            section.layers,
            section.hidden,
            optimisation,
            run.device,
            run.log,
        )
    except density.DivergenceError as error:
        expected = f"a smaller one: the flow diverged ({error})"
        raise InputError(
            "params.yaml", "flow.learning_rate", section.learning_rate, expected
        ) from None
    density.save(fitted.density, out / "flow.safetensors")
    save_csv(out / "history.csv", pd.DataFrame(fitted.history))
    return {
        "nll_fit": fitted.nll_fit,
        "nll_val": fitted.nll_select,
        "nll_val_gaussian": fitted.nll_select_gaussian,
    }


if __name__ == "__main__":
    main()
