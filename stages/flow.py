"""Fit the flow to the features, without labels."""

from pathlib import Path

import pandas as pd

from mistakes.artifacts import save_csv
from mistakes.data import features
from mistakes.data.features import Batch
from mistakes.detectors import density
from mistakes.errors import ArgumentError, InputError
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, fit: Path, val: Path, out: Path) -> dict[str, float]:
    """Write out/flow.safetensors: flow, preprocessing, and the Gaussian it is held against; the
    same of each of flow.also. Of logits only the predictions are used.
    """
    section = run.params.flow
    training, select = features.load(fit), features.load(val)
    if section.split == "val":
        cut = len(select.logits) * 4 // 5
        training, select = select.take(slice(cut)), select.take(slice(cut, None))
    main = fitted(run, training, select, section.transform, "")
    for transform in section.also:
        try:
            other = fitted(run, training, select, transform, f"{transform}.")
        except ArgumentError as error:
            run.warn(f"flow.also: {transform} does not apply and is left out: {error}")
            continue
        main.density.others.append(other.density)
    density.save(main.density, out / "flow.safetensors")
    save_csv(out / "history.csv", pd.DataFrame(main.history))
    return {
        "nll_fit": main.nll_fit,
        "nll_val": main.nll_select,
        "nll_val_gaussian": main.nll_select_gaussian,
    }


def fitted(run: Run, training: Batch, select: Batch, transform: str, prefix: str) -> density.Fitted:
    """Return the density of one representation; MLflow gets its curve, with the ``prefix``."""
    section = run.params.flow
    optimisation = density.Optimisation(
        section.epochs,
        section.patience,
        section.batch_size,
        section.learning_rate,
        section.gradient_clip,
        section.seed,
    )
    given = (
        None
        if section.condition == "none"
        else density.Given(
            section.condition, training.logits.shape[1], training.predicted, select.predicted
        )
    )

    def log(epoch: int, **metrics: float) -> None:
        run.log(epoch, **{f"{prefix}{name}": value for name, value in metrics.items()})

    try:
        found = density.fit(
            training.features,
            select.features,
            section.kind,
            transform,
            section.components,
            section.layers,
            section.hidden,
            optimisation,
            run.device,
            log,
            given,
        )
    except density.DivergenceError as error:
        expected = f"a smaller one: the flow diverged ({error})"
        raise InputError(
            "params.yaml", "flow.learning_rate", section.learning_rate, expected
        ) from None
    return found


if __name__ == "__main__":
    main()
