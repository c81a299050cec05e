"""The AUROCs of scores on the same inputs, with the covariance that their differences need."""

import numpy as np
from scipy import stats

from mistakes.artifacts import Array


def delong(failures: Array, successes: Array) -> tuple[Array, Array]:
    """Return the AUROCs (k,) of k scores and their covariance matrix (k, k).

    failures : float (k, m). successes : float (k, n). DeLong, DeLong and Clarke-Pearson, "Comparing
    the areas under two or more correlated ROC curves", Biometrics 1988: the variance of each
    input's placement among the other group, by midranks as in Sun and Xu, "Fast implementation of
    DeLong's algorithm", IEEE Signal Processing Letters 2014. Groups of at least 2. Failures and
    successes count as independent, though the images that attacks start from are successes too; on
    the default run that leaves the deviations of differences within 10 % of those that resample
    images.

    Examples
    --------
    >>> found, covariance = delong(np.array([[2.0, 3.0, 4.0]]), np.array([[1.0, 2.5, 0.0]]))
    >>> found.round(3).tolist(), covariance.shape
    ([0.889], (1, 1))
    """
    m, n = failures.shape[1], successes.shape[1]
    ranks = stats.rankdata(np.concatenate([failures, successes], axis=1), axis=1)
    of_failures = (ranks[:, :m] - stats.rankdata(failures, axis=1)) / n  # V10, (k, m)
    of_successes = 1 - (ranks[:, m:] - stats.rankdata(successes, axis=1)) / m  # V01, (k, n)
    covariance = np.atleast_2d(np.cov(of_failures)) / m + np.atleast_2d(np.cov(of_successes)) / n
    return of_failures.mean(axis=1), covariance
