"""Train the classifier on fit; go on from the last epoch after a kill."""

import hashlib
from pathlib import Path

import pandas as pd

from mistakes import classifier as classifiers
from mistakes.artifacts import load_arrays, save_csv
from mistakes.stage import Run, stage


@stage
def main(run: Run, fit: Path, val: Path, out: Path) -> dict[str, float]:
    """Write out/model.safetensors, which rebuilds itself."""
    settings, device = run.classifier, run.device
    images, labels = load_arrays(fit, "images", "labels")
    val_images, val_labels = load_arrays(val, "images", "labels")
    model = classifiers.new(settings.architecture, settings.width, int(labels.max()) + 1, images, settings.seed)
    schedule = classifiers.Schedule(
        settings.epochs, settings.batch_size, settings.learning_rate, settings.momentum, settings.weight_decay,
        settings.flip, settings.shift, settings.precision, settings.seed,
    )  # fmt: skip

    def on_epoch(epoch: int, loss: float) -> dict[str, float]:
        accuracy = classifiers.accuracy(model, val_images, val_labels, device)
        run.log(epoch, loss=loss, accuracy_val=accuracy)
        return {"accuracy_val": accuracy}

    data = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    code = Path(classifiers.__file__).read_text()
    scratch = run.scratch(schedule, classifiers.describe(model), data, code, device.type)
    checkpoint = scratch / "checkpoint.safetensors"
    history = classifiers.train(model, images, labels, schedule, device, on_epoch, checkpoint)
    classifiers.save(model, out / "model.safetensors")
    save_csv(out / "history.csv", pd.DataFrame(history))
    metrics = {
        "accuracy_fit": classifiers.accuracy(model, images, labels, device),
        "accuracy_val": history[-1]["accuracy_val"],
        "epochs": settings.epochs,
    }
    checkpoint.unlink(missing_ok=True)
    return metrics


if __name__ == "__main__":
    main()
