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

from mistakes.artifacts import Array, load_arrays, load_tensors
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
    log_prob = density.load(Path("data/flow") / name / "flow.safetensors").log_prob
    known = [density.evaluate(log_prob, part.features) for part in (val, test)]
    before, started = growth(), time.perf_counter()
    if detector == "nll":
        flow = _flow(fit, val)
        fitted = time.perf_counter()
        density.evaluate(flow.log_prob, test.features)
        save = partial(density.save, flow)
    elif detector == "guard":
        settings = guard.Settings(**params.load().guard.model_dump())
        made = guard.fit(fit.early, fit.logits, (val.early, val.logits, known[0]), settings)
        fitted = time.perf_counter()
        made.score(test.early, test.logits, known[1])
        save = partial(guard.save, made)
    else:
        section = baselines.Settings(**params.load().detectors.model_dump(exclude={"calibration"}))
        one = baselines.fit(fit.features, fit.logits, labels, section, [detector])
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
    ).density


def whole(folder: Path) -> Batch:
    """Return stored features, read to memory."""
    batch = features.load(folder)
    early: tuple[Array, ...] = tuple(np.array(part) for part in batch.early)
    return Batch(np.array(batch.features), np.array(batch.logits), early)


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
