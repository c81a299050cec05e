"""Adversarial images through advertorch, kept and judged as 8-bit images, since that is what a user would receive."""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mistakes.artifacts import Array
from mistakes.classifier import Classifier, to_unit
from mistakes.compat import advertorch_attacks
from mistakes.errors import InputError


@dataclass(frozen=True)
class Attacked:
    """Stored adversarial images and what became of them."""

    images: Array  # uint8 (n, c, h, w)
    success: Array  # bool (n,): the stored image is misclassified
    linf: Array  # float32 (n,): largest change of a pixel, in [0, 1] pixel units
    l2: Array  # float32 (n,): Euclidean norm of the change, in [0, 1] pixel units


def initially_correct(model: Classifier, images: Array, labels: Array, wanted: int, seed: int,
                      device: torch.device, batch_size: int) -> Array:  # fmt: skip
    """Return the sorted positions, int64 (m,), of ``wanted`` correctly classified images drawn by ``seed``.

    m is smaller where fewer are classified correctly.
    """
    right = np.flatnonzero(predict(model, images, device, batch_size) == labels)
    return np.sort(np.random.default_rng(seed).permutation(right)[:wanted])


@torch.no_grad()
def predict(model: Classifier, images: Array, device: torch.device, batch_size: int) -> Array:
    """Return the predicted class, int64 (n,), of each uint8 image (n, c, h, w)."""
    parts = [model(to_unit(images[i : i + batch_size], device)).argmax(1) for i in range(0, len(images), batch_size)]
    return torch.cat(parts).cpu().numpy()


def run(model: Classifier, images: Array, labels: Array, attack: str, norm: str,
        arguments: Mapping[str, float], seed: int, device: torch.device, batch_size: int) -> Attacked:  # fmt: skip
    """Attack uint8 images (n, c, h, w) of which all are classified as ``labels`` (n,).

    attack, arguments : a class of advertorch.attacks and its keyword arguments, in [0, 1] pixel units. norm : ``linf``
    keeps the stored image within ``eps`` of the clean one also after rounding; ``l2`` only rounds. Raises InputError
    for an attack or an argument that advertorch does not know.
    """
    torch.manual_seed(seed)
    adversary = _adversary(model, attack, dict(arguments))
    stored = []
    for start in range(0, len(images), batch_size):
        x = to_unit(images[start : start + batch_size], device)
        y = torch.as_tensor(labels[start : start + batch_size].copy()).to(device)
        with warnings.catch_warnings():  # advertorch's DDN steps its scheduler first, on purpose
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            perturbed = adversary.perturb(x, y).detach().cpu()
        if not torch.isfinite(perturbed).all():
            raise InputError("params.yaml", f"adversarial.attacks ({attack})", "NaN images", "an attack that converges")
        stored.append((perturbed * 255).round().clamp(0, 255).to(torch.uint8).numpy())
    result = np.concatenate(stored)
    if norm == "linf" and "eps" in arguments:
        reach = int(np.floor(arguments["eps"] * 255 + 1e-6))  # whole grey levels
        clean = images.astype(np.int16)
        result = np.clip(result, np.maximum(clean - reach, 0), np.minimum(clean + reach, 255)).astype(np.uint8)
    change = (result.astype(np.float32) - images).reshape(len(images), -1) / 255
    success = predict(model, result, device, batch_size) != labels
    return Attacked(result, success, np.abs(change).max(1), np.linalg.norm(change, axis=1))


def _adversary(model: Classifier, attack: str, arguments: dict[str, float]) -> Any:
    attacks = advertorch_attacks()
    known = sorted(name for name, value in vars(attacks).items() if inspect.isclass(value) and "Attack" in name)
    key = "adversarial.attacks"
    if attack not in known:
        raise InputError("params.yaml", f"{key}.attack", attack, f"a class of advertorch.attacks: {', '.join(known)}")
    kind = getattr(attacks, attack)
    accepted = list(inspect.signature(kind).parameters)
    for name in arguments:
        if name not in accepted:
            raise InputError("params.yaml", f"{key} ({attack}).arguments", name, f"one of {', '.join(accepted[1:])}")
    if "num_classes" in accepted:
        arguments["num_classes"] = model.architecture.classes
    return kind(model, **arguments)
