"""The stratified permutation test against scipy's plain one on the same data: python -m
benchmarks.stratified.
"""

import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from mistakes.statistics.resampling import stratified_permutation

FAILURES, SUCCESSES, STRATA, RESAMPLES, ROUNDS = 745, 9255, 10, 10_000, 3


def seconds(function: Callable[[], object]) -> float:
    """Return the shortest time of ROUNDS calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print both times and their ratio."""
    rng = np.random.default_rng(0)
    n = FAILURES + SUCCESSES
    scores, strata, failed = rng.normal(size=n), rng.integers(0, STRATA, n), np.arange(n) < FAILURES

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis) - y.mean(axis=axis)

    def plain() -> object:
        return stats.permutation_test(
            (scores[failed], scores[~failed]),
            difference,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=500,
            alternative="greater",
            rng=np.random.default_rng(0),
        )

    def stratified() -> object:
        return stratified_permutation(scores, failed, strata, RESAMPLES, np.random.default_rng(0))

    ours, scipys = seconds(stratified), seconds(plain)
    print(f"{FAILURES} against {SUCCESSES}, {RESAMPLES} resamples, best of {ROUNDS}")
    print(f"scipy.stats.permutation_test, plain       {scipys:.3f} s")
    print(f"stratified_permutation, {STRATA} strata         {ours:.3f} s")
    print(f"ratio                                     {scipys / ours:.1f}")


if __name__ == "__main__":
    main()
