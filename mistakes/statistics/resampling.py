"""Vectorised resampling that scipy lacks: a stratified permutation test, and bootstrap weights.

Results do not depend on how the resamples are cut into batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mistakes.artifacts import Array


@dataclass(frozen=True)
class Permuted:
    """A permutation test: its statistic, one-sided p-value, and the null distribution (B,)."""

    statistic: float
    pvalue: float
    null: Array


def stratified_permutation(
    scores: Array, group: Array, strata: Array, resamples: int, rng: np.random.Generator
) -> Permuted:
    """Test whether scores are higher in ``group``, with labels permuted within strata only.

    scores : float (n,). group : bool (n,). strata : (n,). Statistic: the mean over group members of
    their score minus the mean of the others in the same stratum. p is (b + 1) / (B + 1) (Phipson
    and Smyth 2010). Strata without both groups carry no information and are left out; where none is
    left, the difference is 0 and p is 1.
    """
    observed, members = 0.0, 0
    null = np.zeros(resamples)
    for stratum in np.unique(strata):
        here = scores[strata == stratum].astype(np.float64)
        chosen = group[strata == stratum]
        m, n = int(chosen.sum()), len(here)
        if m in (0, n):
            continue
        here = here - here.mean()  # only for precision: the sum of a subset then stays near 0
        # with mean 0, the group's sum times this is m times (mean of group - mean of others)
        scale = n / (n - m)
        observed += scale * here[chosen].sum()
        null += scale * _subset_sums(here, m, resamples, rng)
        members += m
    if members == 0:
        return Permuted(0.0, 1.0, null)
    # a permutation that repeats the observed labels must count, whatever the order of summation
    at_least = int((null >= observed - 1e-9 * max(1.0, abs(observed))).sum())
    return Permuted(observed / members, (at_least + 1) / (resamples + 1), null / members)


def _subset_sums(values: Array, size: int, resamples: int, rng: np.random.Generator) -> Array:
    """Return the sums of ``resamples`` random subsets of ``size`` values; the cost grows with the
    smaller part.
    """
    small = min(size, len(values) - size)
    batches = [min(1000, resamples - start) for start in range(0, resamples, 1000)]
    subset = np.concatenate(
        [values[_subsets(len(values), small, rows, rng)].sum(axis=1) for rows in batches]
    )
    return subset if small == size else values.sum() - subset


def _subsets(n: int, size: int, rows: int, rng: np.random.Generator) -> Array:
    """Return int32 (rows, size): in each row, ``size`` different numbers below n, every such set
    equally likely.

    Numbers are drawn independently, and those that a row already has are drawn again, until none is
    left. So a row ends as the first ``size`` different numbers of an endless independent sequence:
    no set is favoured.
    """
    drawn = rng.integers(0, n, (rows, size), dtype=np.int32)
    waiting = np.arange(rows)
    while len(waiting):
        part = np.sort(drawn[waiting], axis=1)
        repeated = np.zeros(part.shape, bool)
        repeated[:, 1:] = part[:, 1:] == part[:, :-1]
        part[repeated] = rng.integers(0, n, int(repeated.sum()), dtype=np.int32)
        drawn[waiting] = part
        waiting = waiting[repeated.any(axis=1)]
    return drawn


def bootstrap_weights(
    n: int, resamples: int, rng: np.random.Generator, batch: int = 100
) -> Iterator[Array]:
    """Yield float32 (n, b) in batches: how often each of n samples is drawn in each of
    ``resamples`` resamples.

    Examples
    --------
    >>> batches = list(bootstrap_weights(5, 30, np.random.default_rng(0), batch=20))
    >>> [part.shape for part in batches], batches[0].sum(axis=0)[:3].tolist()
    ([(5, 20), (5, 10)], [5.0, 5.0, 5.0])
    """
    for start in range(0, resamples, batch):
        columns = min(batch, resamples - start)
        drawn = rng.integers(0, n, (columns, n)) * columns + np.arange(columns)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=n * columns).reshape(n, columns).astype(np.float32)
        )
