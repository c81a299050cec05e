"""ROC statistics under bootstrap weights.

Each sample is sorted once and can be compared with any other.
"""

from dataclasses import dataclass

import numpy as np

from mistakes.artifacts import Array


@dataclass(frozen=True)
class Weighted:
    """A sample in ascending order of its scores, under the weights of b resamples."""

    scores: Array  # (n,)
    weights: Array  # float32 (n, b), whole numbers
    # float32 (n + 1, b): the weight of the first 0, 1, ..., n; whole numbers, so exact
    below: Array

    def at_least(self, thresholds: Array) -> Array:
        """Return the weight that scores at least each of ``thresholds`` (m,) as (m, b)."""
        return self.below[-1] - self.below[np.searchsorted(self.scores, thresholds, side="left")]

    def at_most(self, thresholds: Array) -> Array:
        """Return the weight that scores at most each of ``thresholds`` (m,) as (m, b)."""
        return self.below[np.searchsorted(self.scores, thresholds, side="right")]


def weighted(scores: Array, weights: Array) -> Weighted:
    """Sort ``scores`` (n,) with their ``weights`` (n, b); a column of ones is the plain sample."""
    order = np.argsort(scores, kind="stable")
    ordered = weights[order].astype(np.float32)
    below = np.zeros((len(scores) + 1, weights.shape[1]), np.float32)
    np.cumsum(ordered, axis=0, out=below[1:])
    return Weighted(scores[order], ordered, below)


def pairs_won(positives: Weighted, negatives: Weighted) -> Array:
    """Return the weight of the pairs in which the positive scores higher, ties half, float64 (b,).

    Examples
    --------
    >>> ones = np.ones((2, 1))
    >>> f, s = weighted(np.array([3.0, 4.0]), ones), weighted(np.array([1.0, 3.5]), ones)
    >>> pairs_won(f, s).tolist()
    [3.0]
    """
    below = np.searchsorted(negatives.scores, positives.scores, side="left")
    twice = negatives.below[below] + negatives.at_most(positives.scores)
    return (positives.weights * twice).sum(0, dtype=np.float64) / 2


def auroc(positives: Weighted, negatives: Weighted) -> Array:
    """Return P(positive scores higher) + P(tie) / 2, float64 (b,).

    Examples
    --------
    >>> ones = np.ones((2, 1))
    >>> auroc(weighted(np.array([3.0, 4.0]), ones), weighted(np.array([1.0, 3.5]), ones)).tolist()
    [0.75]
    """
    won = pairs_won(positives, negatives)
    return won / positives.below[-1].astype(np.float64) / negatives.below[-1]


def average_precision(positives: Weighted, negatives: Weighted) -> Array:
    """Return the area under the precision-recall curve, as average precision, of finding positives
    by high scores.
    """
    found, wrong = positives.at_least(positives.scores), negatives.at_least(positives.scores)
    return _precision(positives, found, wrong)


def average_precision_low(positives: Weighted, negatives: Weighted) -> Array:
    """Return the average precision, float64 (b,), of finding positives by low scores."""
    found, wrong = positives.at_most(positives.scores), negatives.at_most(positives.scores)
    return _precision(positives, found, wrong)


def _precision(positives: Weighted, found: Array, wrong: Array) -> Array:
    wrong += found
    np.maximum(wrong, 1, out=wrong)  # where nothing is found the weight is 0 as well
    precision = np.divide(found, wrong, out=found)
    return (positives.weights * precision).sum(0, dtype=np.float64) / positives.below[-1]


def fpr95(positives: Weighted, negatives: Weighted) -> Array:
    """Return the share of positives accepted when the threshold accepts 95 % of negatives, float64
    (b,).

    The positives are failures and the negatives successes: "false positive" in the name means an
    accepted failure. The threshold is the lowest score of a negative that at least 95 % of them do
    not exceed.

    Examples
    --------
    >>> ones = np.ones((2, 1))
    >>> fpr95(weighted(np.array([3.0, 4.0]), ones), weighted(np.array([1.0, 3.5]), ones)).tolist()
    [0.5]
    """
    last = (negatives.below < 0.95 * negatives.below[-1] - 1e-3).sum(
        0
    ) - 1  # its place; weights are whole numbers
    accepted = np.searchsorted(positives.scores, negatives.scores[last], side="right")
    share = positives.below[accepted, np.arange(len(accepted))] / positives.below[-1]
    return share.astype(np.float64)
