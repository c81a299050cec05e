"""Which images of fit have labels: all of them, or a few that a seed draws; the others' labels are
read by nothing.
"""

import numpy as np

from mistakes.artifacts import Array
from mistakes.errors import ArgumentError


def labelled(labels: Array, number: int | str, seed: int) -> Array:
    """Return the positions, int64 (m,), ascending, of the images whose labels a training may read.

    labels : int (n,). number : ``all``, or how many: a share of each class as large as its share of
    the images (largest remainder), and at least one image. Raises ArgumentError where there are
    fewer images, or more classes.

    Examples
    --------
    >>> labelled(np.array([0, 0, 0, 1, 1, 1]), 2, seed=0).shape
    (2,)
    """
    if number == "all":
        return np.arange(len(labels))
    m = int(number)
    classes, counts = np.unique(labels, return_counts=True)
    if not len(classes) <= m <= len(labels):
        expected = (
            f"all, or {len(classes)} (one of each class) to {len(labels)} (the images of fit)"
        )
        raise ArgumentError("labels", m, expected)
    exact = counts * m / len(labels)
    shares = np.maximum(exact.astype(int), 1)
    # the class that is furthest from its share gives or gets an image, and keeps one
    while shares.sum() != m:
        lacking = np.where((shares > 1) | (shares.sum() < m), exact - shares, np.inf)
        shares[lacking.argmax() if shares.sum() < m else lacking.argmin()] += np.sign(
            m - shares.sum()
        )
    rng = np.random.default_rng(seed)
    drawn = [
        rng.permutation(np.flatnonzero(labels == c))[:k]
        for c, k in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def fill_in(labels: Array, logits: Array, number: int | str, seed: int) -> Array:
    """Return the labels (n,) of the images that ``labelled`` draws, and of all others the class
    that logits (n, k) predict.

    For whatever is fitted with labels: it must not know more of them than the classifier did.

    Examples
    --------
    >>> fill_in(np.array([0, 1]), np.array([[9.0, 0.0], [9.0, 0.0]]), "all", 0).tolist()
    [0, 1]
    """
    known = labelled(labels, number, seed)
    result = logits.argmax(1).astype(labels.dtype)
    result[known] = labels[known]
    return result
