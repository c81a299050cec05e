"""Stored features: what a classifier made of inputs, as arrays and as tensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistakes.artifacts import Array, load_arrays

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a classifier makes of n images: features float32 (n, d), logits float32 (n, k), early
    float32 (n, m_i).
    """

    features: Array
    logits: Array
    early: tuple[Array, ...]

    def arrays(self) -> dict[str, Array]:
        """Return the arrays under the names that their files have."""
        return {"features": self.features, "logits": self.logits} | {
            early_name(i): part for i, part in enumerate(self.early)
        }

    def take(self, rows: Array) -> "Batch":
        """Return the images at ``rows``, int64 (m,)."""
        return Batch(
            self.features[rows], self.logits[rows], tuple(part[rows] for part in self.early)
        )


@dataclass(frozen=True)
class Outputs:
    """The same as tensors, with their gradients."""

    features: "Tensor"
    logits: "Tensor"
    early: "tuple[Tensor, ...]"


def early_name(block: int) -> str:
    """Return the name of the file of early features after ``block``, counted from 0.

    Examples
    --------
    >>> early_name(0)
    'early_1'
    """
    return f"early_{block + 1}"


def load(folder: Path) -> Batch:
    """Return the stored features of one split, memory-mapped. Raises InputError as load_arrays
    does.
    """
    early = [early_name(i) for i in range(len(list(folder.glob("early_*.npy"))))]
    features, logits, *parts = load_arrays(folder, "features", "logits", *early)
    return Batch(features, logits, tuple(parts))
