"""Train the classifier on fit, going on from the last epoch after a kill, or take in one that was
trained elsewhere.
"""

import hashlib
from dataclasses import fields
from pathlib import Path

import pandas as pd

from mistakes.artifacts import load_arrays, load_json, save_csv
from mistakes.config import classifiers
from mistakes.networks import (
    architectures,
    augmentation,
    external,
    label_budget,
    models,
    semi_supervised,
    training,
    validate_external,
)
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, fit: Path, val: Path, classes: Path, out: Path) -> dict[str, float]:
    """Write out/model.safetensors, which rebuilds itself; of given outputs it says only that they
    are given.

    accuracy_fit is over all images of fit; where few of them have labels, accuracy_labelled is over
    these n_labelled.
    """
    settings, device = run.classifier, run.device
    if isinstance(settings, classifiers.Precomputed):
        return validate_external.outputs(fit, val, load_json(classes), out, run.warn)
    run.check_attacks()  # before all the training
    if isinstance(settings, classifiers.Custom):
        return _take(run, settings, val, load_json(classes), out)
    images, truth = load_arrays(fit, "images", "labels")
    val_images, val_labels = load_arrays(val, "images", "labels")
    known = label_budget.labelled(truth, settings.labels, settings.seed)
    model = architectures.new(
        settings.architecture, settings.width, int(truth.max()) + 1, images, settings.seed
    )
    values = settings.model_dump()
    schedule = training.Schedule(**{f.name: values[f.name] for f in fields(training.Schedule)})

    def on_epoch(epoch: int, loss: float) -> dict[str, float]:
        accuracy = architectures.accuracy(model, val_images, val_labels, device)
        run.log(epoch, loss=loss, accuracy_val=accuracy)
        return {"accuracy_val": accuracy}

    data = hashlib.sha256(images.tobytes() + truth.tobytes()).hexdigest()
    code = [
        Path(str(module.__file__)).read_text()
        for module in (augmentation, architectures, label_budget, semi_supervised, training)
    ]
    key = (settings, architectures.describe(model), data, code, device.type)
    checkpoint = run.scratch(*key) / "checkpoint.safetensors"
    if isinstance(settings, classifiers.Supervised):
        history = training.train(
            model, images[known], truth[known], schedule, device, on_epoch, checkpoint
        )
    else:
        method = semi_supervised.Method(
            settings.method, **{k: v for k, v in values.items() if k in semi_supervised.KEYS}
        )
        history = semi_supervised.train(
            model, images, truth, known, schedule, method, device, on_epoch, checkpoint
        )
    architectures.save(model, out / "model.safetensors")
    # columns are named, for a history that was resumed has its keys sorted
    save_csv(out / "history.csv", pd.DataFrame(history, columns=["epoch", "loss", "accuracy_val"]))
    metrics = {"accuracy_val": history[-1]["accuracy_val"]}
    metrics["accuracy_fit"] = architectures.accuracy(model, images, truth, device)
    if settings.labels != "all":
        found = architectures.accuracy(model, images[known], truth[known], device)
        metrics |= {"accuracy_labelled": found, "n_labelled": len(known)}
    checkpoint.unlink(missing_ok=True)
    return metrics


def _take(
    run: Run, settings: classifiers.Custom, val: Path, classes: list[str], out: Path
) -> dict[str, float]:
    (images, truth), where, device = (
        load_arrays(val, "images", "labels"),
        f"classifiers.{run.name}",
        run.device,
    )
    model = validate_external.take(settings.model_dump(), where, images, len(classes), device)
    accuracy = validate_external.judge(model, where, images, truth, classes, device, run.warn)
    external.save(model, out / "model.safetensors")
    save_csv(out / "history.csv", pd.DataFrame(columns=["epoch", "loss", "accuracy_val"]))
    return {
        "accuracy_val": accuracy,
        "gradients": models.differentiable(model, images, device),
    }


if __name__ == "__main__":
    main()
