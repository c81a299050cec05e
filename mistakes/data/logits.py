"""Logits as users give them, in files or by a network: brought to two columns or more, and looked
at.

Whatever a softmax turns into the same probabilities will do, logits as well as log-probabilities;
probabilities themselves will not: the softmax of probabilities is nearly flat, and energy, entropy
and attacks go wrong silently.
"""

import numpy as np

from mistakes.artifacts import Array
from mistakes.errors import InputError

GONE = 104.0  # exp(-104) is 0 in float32: what a probability of 0 is that far below the largest one
MIN_ROWS = 5  # rows, of which no smaller number can look like probabilities by chance
NEAR = 0.01  # relative: probabilities that were stored in half precision or with three digits


def checked(logits: Array, where: object, classes: int | None = None) -> tuple[Array, list[str]]:
    """Return logits (n, k), (n, 1) or (n,) as finite float32 (n, k), and sentences about what is
    odd.

    One logit is that of the second of two classes, and becomes two columns (0, logit). -inf, the
    logarithm of a probability of 0 (of one logit inf too), becomes a number whose softmax is 0 too.
    classes : how many there are, where that is known. Raises InputError where a row is NaN or
    infinite, or the rows are probabilities.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        columns = logits.reshape(len(logits), -1).astype(np.float32)
    said = _look(columns, where)
    certain = np.zeros(len(columns), bool)
    if columns.shape[1] == 1 and classes in (2, None):
        certain = np.isinf(columns[:, 0])
        columns = np.concatenate(
            [np.zeros_like(columns), np.nan_to_num(columns, nan=np.nan, posinf=GONE, neginf=-GONE)],
            axis=1,
        )
    bad = np.isnan(columns) | (columns == np.inf) | (columns == -np.inf).all(1, keepdims=True)
    if bad.any():
        raise InputError(
            where, f"row {int(bad.any(1).argmax())}", "NaN or infinite", "finite numbers"
        )
    gone = columns == -np.inf
    if gone.any() or certain.any():
        lowest = np.where(gone, np.inf, columns).min(1, keepdims=True)
        columns = np.where(
            gone, np.minimum(lowest, columns.max(1, keepdims=True) - GONE), columns
        ).astype(np.float32)
        said.append(
            f"{where}: -inf in {int((gone.any(1) | certain).sum())} of {len(gone)} rows, the"
            f" logarithm of a probability of 0, is taken as {GONE:g} less than the largest of"
            " the row"
        )
    return columns, said


def _look(columns: Array, where: object) -> list[str]:
    """Raise InputError where rows (n, k) are probabilities, and return a sentence where they may
    be.
    """
    if len(columns) < MIN_ROWS or not columns.min() >= 0:
        return []
    instead = "logits, the values before the softmax, or log-probabilities"
    if columns.shape[1] == 1:
        if columns.max() <= 1:
            found = (
                f"the one logit lies in [0, 1] in all {len(columns)} rows, so it is a probability p"
            )
            raise InputError(where, f"{found}; give log(p / (1 - p)), the value before the sigmoid")
        return []
    sums = columns.sum(1)
    total = float(np.median(sums))
    if (
        total > 0
        and np.abs(sums / total - 1).max() < NEAR
        and (abs(total - 1) < NEAR or np.ptp(columns, axis=0).any())
    ):
        raise InputError(
            where,
            f"all rows of logits are non-negative and sum to {total:.4g}: these are probabilities;"
            f" give {instead}",
        )
    if columns.max() <= 1:
        return [
            f"{where}: all logits lie in [0, 1]; if these are probabilities of a sigmoid, every"
            f" score of confidence is wrong: give {instead}"
        ]
    return []
