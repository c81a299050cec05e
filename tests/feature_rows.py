"""Rows of features and logits in a file."""

from pathlib import Path

import numpy as np

from mistakes.data import feature_files


def as_npz(path: Path, **values: np.ndarray) -> Path:
    np.savez(path, **values)
    return path


def rows(
    rng: np.random.Generator, k: int = 4, n: int = 200, accuracy: float = 0.9
) -> dict[str, np.ndarray]:
    labels = rng.integers(0, k, n)
    shown = np.where(rng.random(n) < accuracy, labels, rng.integers(0, k, n))
    scores = rng.normal(size=(n, k)) + 6 * np.eye(k)[shown]
    return {"features": rng.normal(size=(n, 5)), "logits": scores, "labels": labels}


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def read(path: Path, **values: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    said: list[str] = []
    return (
        feature_files.read({"train": as_npz(path / "a.npz", **values)}, {}, None, said.append)[0][
            "train"
        ],
        said,
    )
