"""A real checkout for the pipeline tests, and small real data for the others."""

import os
from pathlib import Path

from checkouts import Checkout, duplicate, reproduce

# threads that wait for one another must not spin: several processes of the tests share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from filelock import FileLock
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the smoke pipeline ran once and was committed; tests put back what they
    change.

    The first worker that asks runs the pipeline; each works in a copy of its own.
    """
    own = tmp_path_factory.mktemp("reproduced") / "checkout"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return reproduce(own)
    shared = tmp_path_factory.getbasetemp().parent / "reproduced"
    with FileLock(f"{shared}.lock"):
        if not (done := shared.with_name("reproduced.done")).exists():
            reproduce(shared)
            done.touch()
        return duplicate(Checkout(shared), own)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, so that no core waits for the last of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None], found.target


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Weights of usernets' network by its number of classes."""
    import custom_entries  # not before jaxtyping's hook, which conftest files precede

    folder = tmp_path_factory.mktemp("trained")
    paths = {classes: folder / f"{classes}.safetensors" for classes in (10, 2)}
    return {classes: custom_entries.train(digits, classes, path) for classes, path in paths.items()}
