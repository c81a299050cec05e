"""What is computed on a GPU is what is computed on the CPU. Runs where there is a GPU."""

import numpy as np
import pytest
import torch

from mistakes import devices
from mistakes.data.features import Batch
from mistakes.detectors import baselines, density, guard, scoring

CUDA = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def outputs(n: int, seed: int) -> tuple[Batch, np.ndarray]:
    """Return features of six classes, with logits that are linear in them, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, n)
    W = np.random.default_rng(9).normal(size=(20, 6))
    z = (3 * W.T[labels] + rng.normal(size=(n, 20))).astype(np.float32)
    early = tuple((z[:, :8] + rng.normal(size=(n, 8))).astype(np.float32) for _ in range(2))
    return Batch(z, (z @ W / 4).astype(np.float32), early), labels


def fitted(device: torch.device) -> scoring.Detectors:
    """Return detectors that were fitted on ``device``."""
    batch, labels = outputs(3000, 0)
    optimisation = density.Optimisation(2, 2, 256, 1e-3, 5.0, 0)
    flow = density.fit(
        batch.features,
        batch.features[:500],
        "maf",
        "direction_norm",
        6,
        2,
        16,
        optimisation,
        device,
        lambda *a, **k: None,
        density.Given("prediction", 6, batch.predicted, batch.predicted[:500]),
    ).density.to(device)
    settings = baselines.Settings(0, 0.1, None, 3, 5, 10, 2000, 0.5)
    densities = density.evaluate(flow.log_joints_at, batch.features, batch.predicted)
    judge = guard.fit(batch, batch, densities, guard.Settings(0, 16, 2, 256, 2e-3), device)
    return scoring.Detectors(
        flow,
        baselines.fit(batch.features, batch.logits, labels, settings, device=device),
        judge,
    )


def test_a_module_says_where_it_computes():
    assert devices.of(baselines.Baselines()) == torch.device("cpu")
    assert devices.of(torch.nn.Linear(2, 2, device="meta")) == torch.device("meta")


def test_a_copy_on_a_device_scores_alike_and_leaves_the_original():
    detectors = fitted(torch.device("cpu"))
    moved = detectors.to(torch.device("meta"))
    for part in (moved.density, moved.baselines, moved.guard):
        assert {t.device.type for t in part.state_dict().values()} == {"meta"}
    new, _ = outputs(50, 1)
    copied = detectors.to(torch.device("cpu")).score(new)
    for name, values in detectors.score(new).items():
        assert np.array_equal(values, copied[name])


@needs_gpu
def test_scores_on_the_gpu_are_those_of_the_cpu():
    detectors, (new, _) = fitted(torch.device("cpu")), outputs(5000, 1)
    on_gpu = detectors.to(CUDA)
    assert devices.of(on_gpu.guard) == devices.of(on_gpu.baselines)
    found = on_gpu.score(new)
    for name, values in detectors.score(new).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3, err_msg=name)


@needs_gpu
def test_what_is_fitted_on_the_gpu_ranks_as_what_is_fitted_on_the_cpu():
    (new, _), cpu, gpu = outputs(2000, 1), fitted(torch.device("cpu")), fitted(CUDA)
    there = gpu.score(new)
    for name, values in cpu.score(new).items():
        agreement = np.corrcoef(values.argsort().argsort(), there[name].argsort().argsort())[0, 1]
        assert agreement > 0.99, (name, agreement)
