"""What each detector costs: python -m benchmarks.detectors [NAME]

Prints a Markdown table: seconds to fit it and to score test features, megabytes (10^6 bytes) of
what was fitted, and by how many megabytes the process grew at most. NAME is a classifier whose
features, flow and detectors `dvc repro` left below data (default: the first of params.yaml). Each
detector is measured in a process of its own, which has read the features beforehand. The guard is
measured without the flow, whose densities it takes.
"""

import multiprocessing
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mistakes.artifacts import load_arrays, load_tensors
from mistakes.config import params
from mistakes.data import features
from mistakes.data.features import Batch
from mistakes.detectors import baselines, density, guard
from mistakes.detectors.density import Density
from mistakes.pipeline import environment

Cost = tuple[float, float, float, float]  # seconds to fit, seconds to score, MB fitted, MB grown


def growth() -> float:
    """Return the largest size of this process so far, in MB."""
    return environment.peak_memory() * 2**20 / 1e6


def cost(detector: str, name: str) -> Cost:
    """Return what ``detector`` costs for the classifier ``name``."""
    root = Path("data/features") / name
    fit, val, test = (whole(root / split) for split in ("fit", "val", "test"))
    (labels,) = load_arrays(root / "fit", "labels")
    labels = np.array(labels)
    log_joints_at = density.load(Path("data/flow") / name / "flow.safetensors").log_joints_at
    known = [density.evaluate(log_joints_at, p.features, p.predicted) for p in (val, test)]
    before, started = growth(), time.perf_counter()
    if detector == "nll":
        flow = _flow(fit, val)
        fitted = time.perf_counter()
        density.evaluate(flow.log_prob, test.features)
        save = partial(density.save, flow)
    elif detector == "guard":
        section = params.load().detectors.guard.model_dump(exclude={"shares", "budget"})
        made = guard.fit(fit, val, known[0], guard.Settings(**section))
        fitted = time.perf_counter()
        made.score(test, known[1])
        save = partial(guard.save, made)
    else:
        others = params.load().detectors.model_dump(exclude={"calibration", "guard"})
        settings = baselines.Settings(**others)
        one = baselines.fit(fit.features, fit.logits, labels, settings, [detector])
        fitted = time.perf_counter()
        one.score(test.features, test.logits)
        save = partial(baselines.save, one)
    done, after = time.perf_counter(), growth()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "file")
        return (
            fitted - started,
            done - fitted,
            (Path(folder) / "file").stat().st_size / 1e6,
            after - before,
        )


def _flow(fit: Batch, val: Batch) -> Density:
    s = params.load().flow
    how = density.Optimisation(
        s.epochs, s.patience, s.batch_size, s.learning_rate, s.gradient_clip, s.seed
    )
    return density.fit(
        fit.features,
        val.features,
        s.kind,
        s.transform,
        s.components,
        s.layers,
        s.hidden,
        how,
        torch.device("cpu"),
        lambda *_args, **_metrics: None,
        density.Given(s.condition, fit.logits.shape[1], fit.predicted, val.predicted)
        if s.condition != "none"
        else None,
    ).density


def whole(folder: Path) -> Batch:
    """Return stored features, read to memory."""
    arrays = features.load(folder).arrays()
    return Batch.of({key: np.array(part) for key, part in arrays.items()})


def main() -> None:
    """Measure and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else next(iter(params.load().classifiers))
    n = len(load_arrays(Path("data/features") / name / "test", "logits")[0])
    print(
        f"| detector | fit (s) | score {n:,} inputs (s) | fitted (MB) | memory (MB)"
        " |\n|---|---:|---:|---:|---:|"
    )
    there = load_tensors(Path("data/detectors") / name / "baselines.safetensors")[1][
        "baselines"
    ]  # maybe without vim
    for detector in ("guard", "nll", *there):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            fit, score, size, memory = fresh.apply(cost, (detector, name))
        print(f"| {detector} | {fit:.2f} | {score:.2f} | {size:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
