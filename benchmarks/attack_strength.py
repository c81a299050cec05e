"""The project's PGD beside AutoAttack's APGD of torchattacks, on the same images of a finished run:
python -m benchmarks.attack_strength [CLASSIFIER].

Both make stored 8-bit images within eps of correctly classified test images, and are judged alike.
Needs `pip install --no-deps torchattacks` (its pin of requests is older than MLflow's).
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchattacks

from mistakes import devices
from mistakes.artifacts import Array, load_arrays
from mistakes.attacks import adversarial
from mistakes.config import params
from mistakes.data.pixels import to_unit
from mistakes.networks import models
from mistakes.networks.models import Model

IMAGES, SIZE, SEED = 500, 100, 0
SETTINGS = [(0.02, 20), (0.02, 100), (0.05, 20), (0.05, 100)]  # eps and steps


def apgd(model: Model, images: Array, labels: Array, eps: float, steps: int) -> Array:
    """Return which images APGD with the cross-entropy and the DLR loss turns, bool (n,)."""
    won = np.zeros(len(images), bool)
    for loss in ("ce", "dlr"):
        attack = torchattacks.APGD(model, eps=eps, steps=steps, loss=loss, seed=SEED)
        for i in range(0, len(images), SIZE):
            rows = slice(i, i + SIZE)
            x = to_unit(images[rows], devices.CPU).contiguous()
            found = attack(x, torch.as_tensor(labels[rows].copy()))
            reach = adversarial.grey_levels(eps)
            clean = images[rows].astype(np.int16)
            grey = (found.detach().numpy() * 255).round().astype(np.int16)
            stored = np.clip(grey, clean - reach, clean + reach).astype(np.uint8)
            won[rows] |= adversarial.predict(model, stored, devices.CPU, SIZE) != labels[rows]
    return won


def main() -> None:
    """Print both success rates and McNemar's p that APGD succeeds no more often."""
    values = params.load()
    name = sys.argv[1] if len(sys.argv) > 1 else next(iter(values.classifiers))
    model = models.load(Path("data/classifier") / name / "model.safetensors")
    images, labels = load_arrays(Path("data/images/test"), "images", "labels")
    drawn = adversarial.initially_correct(model, images, labels, IMAGES, SEED, devices.CPU, SIZE)
    x, y = images[np.sort(drawn)], labels[np.sort(drawn)]
    print("| eps | steps | PGD | APGD, cross-entropy or DLR | p |\n|---|---|---|---|---|")
    for eps, steps in SETTINGS:
        arguments = {"eps": eps, "eps_iter": 2.5 * eps / steps, "nb_iter": steps}
        ours = adversarial.run(
            model, x, y, "LinfPGDAttack", "linf", arguments, SEED, devices.CPU, SIZE
        ).success
        theirs = apgd(model, x, y, eps, steps)
        p = adversarial.mcnemar(theirs, ours)
        print(
            f"| {eps} | {steps} | {ours.mean():.3f} | {theirs.mean():.3f} | {p:.2g} |", flush=True
        )


if __name__ == "__main__":
    main()
