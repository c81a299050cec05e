"""The guard as others use it: one folder that answers, for new inputs, what they are and whether to
believe it.

The folder is an MLflow model too (flavour python_function, loaded by this module), and holds no
pickle.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mistakes import devices
from mistakes.artifacts import (
    Array,
    load_arrays,
    load_csv,
    load_json,
    save_arrays,
    save_csv,
    save_json,
    save_text,
)
from mistakes.data import features, logits
from mistakes.data.features import Batch
from mistakes.detectors import conformal, density, guard
from mistakes.detectors.density import Density
from mistakes.detectors.guard import Guard
from mistakes.errors import ArgumentError, InputError
from mistakes.networks import models
from mistakes.networks.extraction import Extractor
from mistakes.statistics import acceptance

FILES = ("model.safetensors", "flow.safetensors", "guard.safetensors")


@dataclass(frozen=True)
class Form:
    """What an input must look like, and what the answer means."""

    classes: list[str]
    shape: list[int] | None  # (c, h, w) of the images; None: the inputs are outputs of a model
    # pixels: image files are scaled and cropped to that square; None: they have the size already
    size: int | None
    layer: str
    early: list[str] | None
    batch_size: int
    views: list[str]
    alpha: float  # flagged at, unless another one is asked for
    delta: float  # probability that what is promised of an accepted error rate does not hold
    # correct: of correctly classified inputs a share alpha is flagged; all: of all clean ones
    calibration: str


@dataclass(frozen=True)
class Deployed:
    """A classifier with its guard."""

    form: Form
    extractor: Extractor | None  # None: the inputs are outputs of a model
    density: Density
    guard: Guard
    calibration: Array  # guard scores, float64 (n,)
    acceptance: pd.DataFrame  # errors of cal below each threshold, as acceptance.curve returns them

    def predict(self, inputs: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each input: prediction, confidence, p, flagged, reason.

        inputs : images (n, c, h, w) of whole numbers 0 to 255, or where the guard was made for
        outputs a mapping of ``features`` (n, d), ``logits`` (n, k), or of two classes (n,), and the
        early features that it was made with. params : ``alpha``, or ``error``.

        confidence : largest softmax probability. p : conformal p-value of the guard's score.
        flagged : p <= alpha; of inputs like those that calibrated it at most a share alpha is, on
        average. With ``error`` it is what must be left out so that of the other answers, to inputs
        like those of cal, at most that share is wrong, but with probability form.delta over cal
        (module statistics.acceptance). reason : the part of the guard that is most surprised, each
        by its share of alpha.

        Raises InputError where inputs, alpha or error are not as expected.
        """
        flags = self._rule(params or {})
        batch = (
            self._given(inputs) if self.extractor is None else self._seen(inputs, self.extractor)
        )
        densities = density.log_joints(self.density, batch)
        score, reason = self.guard.combine(self.guard.explain(batch, densities))
        p = conformal.p_values(self.calibration, score)
        probabilities = torch.as_tensor(batch.logits).double().softmax(1).numpy()
        return pd.DataFrame(
            {
                "prediction": np.array(self.form.classes, object)[batch.predicted],
                "confidence": probabilities.max(1),
                "p": p,
                "flagged": flags(p, score),
                "reason": reason,
            }
        )

    def _rule(self, params: Mapping[str, Any]) -> Callable[[Array, Array], Array]:
        """Return which inputs are flagged, by p and score (n,)."""
        for name in params.keys() - {"alpha", "error"}:
            raise InputError("guard", "parameter", name, "alpha or error")
        if len(params) > 1:
            raise InputError("guard", "parameters", "alpha and error", "one of them")
        if "error" in params:
            limit = self._limit(params["error"])
            return lambda _, score: score > limit
        alpha = self._alpha(params.get("alpha", self.form.alpha))
        return lambda p, _: p <= alpha

    def _limit(self, given: Any) -> float:
        (error,) = _numbers([given], "error").tolist()
        try:
            region = acceptance.largest(self.acceptance, error, self.form.delta)
        except ArgumentError as problem:
            raise InputError("guard", str(problem)) from None
        if region is None:
            n = int(self.acceptance["n"].iloc[0])
            raise InputError(
                "guard",
                "error",
                error,
                f"a larger one: with {n} images of cal no answers can be promised that",
            )
        return region.threshold

    def _alpha(self, given: Any) -> float:
        (alpha,) = _numbers([given], "alpha").tolist()
        if not 0 < alpha < 1:
            raise InputError("guard", "alpha", alpha, "more than 0 and less than 1")
        try:
            conformal.check_attainable(alpha, len(self.calibration))
        except ArgumentError as error:
            raise InputError("guard", str(error)) from None
        return float(alpha)

    def _seen(self, inputs: Any, extractor: Extractor) -> Batch:
        assert self.form.shape is not None
        images = _numbers(inputs, "images")
        if images.ndim != 4 or list(images.shape[1:]) != self.form.shape or not len(images):
            expected = f"(n, {', '.join(map(str, self.form.shape))})"
            raise InputError("guard", "shape of the images", images.shape, expected)
        low, high = float(images.min()), float(images.max())
        if (
            low < 0
            or high > 255
            or (images.dtype != np.uint8 and (high == 1 or not (images % 1 == 0).all()))
        ):
            raise InputError(
                "guard",
                "pixels",
                f"{images.dtype} from {low:g} to {high:g}",
                "whole numbers from 0 to 255",
            )
        return extractor.whole(images.astype(np.uint8), self.form.batch_size)

    def _given(self, inputs: Any) -> Batch:
        early = [features.early_name(i) for i in range(len(self.guard.widths))]
        widths = [self.density.form.features, len(self.form.classes), *self.guard.widths]
        found = []
        for name, width in zip(["features", "logits", *early], widths, strict=True):
            if not isinstance(inputs, Mapping) or name not in inputs:
                raise InputError("guard", name, "missing", f"an array (n, {width})")
            part = _numbers(inputs[name], name)
            # (n,) is one of two
            if name == "logits" and len(part) and part.ndim in (1, 2) and np.size(part[0]):
                part, _ = logits.checked(part, "guard: logits", width)
            part = part.astype(np.float32)
            if (
                part.ndim != 2
                or part.shape[1] != width
                or not len(part)
                or not np.isfinite(part).all()
            ):
                raise InputError("guard", name, part.shape, f"finite numbers (n, {width})")
            found.append(part)
        if len({len(part) for part in found}) > 1:
            raise InputError(
                "guard", "rows", [len(part) for part in found], "the same number in every array"
            )
        return Batch(found[0], found[1], tuple(found[2:]))


def _numbers(values: Any, key: str) -> Array:
    """Return an array of real numbers; raises InputError where they are none."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise InputError("guard", key, "ragged", "an array") from None
    if array.dtype.kind not in "iuf" or np.isnan(array).any():
        raise InputError(
            "guard", key, "NaN" if array.dtype.kind == "f" else str(array.dtype), "numbers"
        )
    return array


def save(
    folder: Path,
    files: Mapping[str, Path],
    calibration: Array,
    accepted: pd.DataFrame,
    form: Form,
) -> None:
    """Write the folder: copies of ``files`` (by the names FILES), the guard's scores that
    calibrate, the table of what can be ``accepted``, and the form.
    """
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(files[name].read_bytes())
    save_arrays(folder, calibration=np.sort(calibration))
    save_csv(folder / "acceptance.csv", accepted)
    save_json(folder / "form.json", asdict(form))
    parameter = {"name": "alpha", "type": "double", "default": form.alpha, "shape": None}
    described = {
        "flavors": {"python_function": {"loader_module": "mistakes.deployment"}},
        "signature": {"inputs": None, "outputs": None, "params": json.dumps([parameter])},
    }
    save_text(folder / "MLmodel", json.dumps(described, indent=2) + "\n")  # JSON is YAML


def load(folder: Path | str, trust: bool = False, device: str = "auto") -> Deployed:
    """Read what save wrote. Raises InputError where a file is missing or corrupt, or this machine
    has no such device.

    trust : an own classifier may name a function, or hold an archive, that is run; without
    ``trust`` it is refused. device : what it answers on: ``auto`` (CUDA where there is one),
    ``cpu`` or ``cuda``.
    """
    folder, where = Path(folder), devices.choose(device, "guard")
    described = load_json(folder / "form.json")
    try:
        form = Form(**described)
    except TypeError as error:
        raise InputError(
            folder / "form.json", "content", str(error), "a form that stage guard wrote"
        ) from None
    extractor = None
    if form.shape is not None:
        model = models.load(folder / "model.safetensors", trust).to(where)
        extractor = Extractor(model, form.layer, form.early, where, form.views)
    fitted = density.load(folder / "flow.safetensors").requires_grad_(False).to(where)
    judge = guard.load(folder / "guard.safetensors").to(where)
    (calibration,) = load_arrays(folder, "calibration")
    accepted = load_csv(folder / "acceptance.csv")
    return Deployed(form, extractor, fitted, judge, np.array(calibration), accepted)


def _load_pyfunc(path: str) -> Deployed:
    """What MLflow calls; MISTAKES_TRUST=1 and MISTAKES_DEVICE in the environment are its ``trust``
    and ``device``.
    """
    trust, device = os.environ.get("MISTAKES_TRUST"), os.environ.get("MISTAKES_DEVICE", "auto")
    return load(path, trust == "1", device)
