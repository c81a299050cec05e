"""Stored features: what a classifier made of inputs, as arrays and as tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistakes.artifacts import Array, load_arrays

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a classifier makes of n images: features float32 (n, d), logits float32 (n, k), early
    float32 (n, m_i), and views float32 (n, k): the log of the mean probability over several looks
    at an image, None where there is one look.
    """

    features: Array
    logits: Array
    early: tuple[Array, ...] = ()
    views: Array | None = None

    @property
    def predicted(self) -> Array:
        """The predicted classes, int64 (n,)."""
        return self.logits.argmax(1)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays under the names that their files have."""
        found = {"features": self.features, "logits": self.logits}
        found |= {early_name(i): part for i, part in enumerate(self.early)}
        return found if self.views is None else found | {"views": self.views}

    def take(self, rows: Array | slice) -> "Batch":
        """Return the images at ``rows``, bool (n,), int64 (m,) or a slice."""
        return self.of({name: part[rows] for name, part in self.arrays().items()})

    @staticmethod
    def of(arrays: Mapping[str, Array]) -> "Batch":
        """Return the batch that has these ``arrays``."""
        early = [early_name(i) for i in range(sum(name.startswith("early_") for name in arrays))]
        parts = tuple(arrays[name] for name in early)
        return Batch(arrays["features"], arrays["logits"], parts, arrays.get("views"))


@dataclass(frozen=True)
class Outputs:
    """The same as tensors, with their gradients."""

    features: "Tensor"
    logits: "Tensor"
    early: "tuple[Tensor, ...]" = ()
    views: "Tensor | None" = None

    @property
    def predicted(self) -> "Tensor":
        """The predicted classes, int64 (n,)."""
        return self.logits.argmax(1)


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
    views = ["views"] if (folder / "views.npy").is_file() else []
    names = ["features", "logits", *early, *views]
    return Batch.of(dict(zip(names, load_arrays(folder, *names), strict=True)))
