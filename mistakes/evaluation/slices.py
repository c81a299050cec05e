"""Slices: groups of test inputs on which a classifier errs more than on the others.

The groups are fixed before the test set is looked at: predicted classes, pairs of classes, folders
and groups of own images, and clusters of the mistakes on val. So each p-value is that of one
planned comparison, and Holm's correction over all slices holds whatever their overlap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from mistakes.artifacts import Array

VALUES = 50  # of a column, of which more say nothing of a group
MIN_INPUTS = 10  # inputs in a slice, below which a rate says next to nothing


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A group of test inputs: what kind of group, its name, and the rows, int64 (n,)."""

    kind: str
    name: str
    rows: Array


def of_classes(prediction: Array, label: Array, classes: list[str]) -> list[Slice]:
    """Return a slice for each predicted class, and one for each pair of classes.

    Parameters
    ----------
    prediction, label : int64 (n,)
    classes : the names of the classes, k of them.

    The slice of a pair holds what is of one of the two classes and was predicted as one of them:
    its error rate is how often the classifier takes one for the other.

    Examples
    --------
    >>> found = of_classes(np.array([0, 0, 1]), np.array([0, 1, 1]), ["cat", "dog"])
    >>> [(one.name, one.rows.tolist()) for one in found]
    [('cat', [0, 1]), ('dog', [2]), ('cat / dog', [0, 1, 2])]
    """
    predicted = [
        Slice(kind="predicted class", name=name, rows=np.flatnonzero(prediction == c))
        for c, name in enumerate(classes)
    ]
    pairs = [
        Slice(
            kind="pair of classes",
            name=f"{classes[a]} / {classes[b]}",
            rows=np.flatnonzero(np.isin(prediction, (a, b)) & np.isin(label, (a, b))),
        )
        for a, b in combinations(range(len(classes)), 2)
    ]
    return predicted + pairs


def of_clusters(mistakes: Array, features: Array, clusters: int, seed: int) -> list[Slice]:
    """Return the test inputs around each cluster of mistakes on val.

    Parameters
    ----------
    mistakes : float32 (m, d)
        Features of the mistakes on val: other inputs than those of ``features``.
    features : float32 (n, d)
        Features of the test inputs.
    clusters : int
        At most so many clusters (k-means), of 10 mistakes or more on average.

    A test input belongs to the cluster of its nearest centre where it is no farther from it than
    half of the cluster's own mistakes are.
    """
    clusters = min(clusters, len(mistakes) // MIN_INPUTS)
    if clusters < 1:
        return []
    means = KMeans(clusters, n_init=10, random_state=seed).fit(mistakes.astype(np.float64))
    own = np.linalg.norm(mistakes - means.cluster_centers_[means.labels_], axis=1)
    radius = np.array([np.median(own[means.labels_ == c]) for c in range(clusters)])
    nearest = means.predict(features.astype(np.float64))
    far = np.linalg.norm(features - means.cluster_centers_[nearest], axis=1)
    return [
        Slice(
            kind="cluster of mistakes on val",
            name=f"cluster {c + 1}",
            rows=np.flatnonzero((nearest == c) & (far <= radius[c])),
        )
        for c in range(clusters)
    ]


def of_columns(columns: pd.DataFrame) -> list[Slice]:
    """Return a slice for each value of each column, where a column has 2 to VALUES of them.

    columns : what is known of each of the n test inputs beside its label, such as its folder.

    Examples
    --------
    >>> found = of_columns(pd.DataFrame({"camera": ["a", "b", "a"], "file": ["1", "2", "3"]}))
    >>> [(one.kind, one.name, one.rows.tolist()) for one in found][:2]
    [('camera', 'a', [0, 2]), ('camera', 'b', [1])]
    """
    found = []
    for kind in columns:
        values = columns[kind].fillna("").astype(str)
        if 2 <= values.nunique() <= VALUES:
            found += [
                Slice(kind=str(kind), name=name, rows=np.flatnonzero(values == name))
                for name in sorted(values.unique())
            ]
    return found


def members(slices: Iterable[Slice], test: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return kind, name, input, label, prediction and correct of every input of every slice, to be
    relabelled or collected.

    test : the test inputs of a score table, n rows. names : of the n inputs, such as their files.
    """
    columns = test[["label", "prediction", "correct"]].reset_index(drop=True)
    columns.insert(0, "input", list(names))
    parts = [columns.iloc[one.rows].assign(kind=one.kind, name=one.name) for one in slices]
    order = ["kind", "name", *columns.columns]
    return pd.concat(parts, ignore_index=True)[order] if parts else pd.DataFrame(columns=order)


def table(
    slices: Iterable[Slice], correct: Array, nll: Array, flagged: Array, confidence_level: float
) -> pd.DataFrame:
    """Return a row for each slice of ten inputs or more, the worst first.

    Parameters
    ----------
    correct, flagged : bool (n,)
        Whether each test input is classified correctly, and whether the guard flags it.
    nll : float64 (n,)
        -log p(z) of the flow, nats.

    Returns
    -------
    kind, name, n, errors; accuracy and flagged_rate with Clopper and Pearson's interval
    (``_low``, ``_high``); median_nll; p of Fisher's exact test that the error rate of the slice is
    not larger than that of the other inputs (a hypergeometric tail), and p_holm, corrected over
    all rows (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    Examples
    --------
    >>> correct = np.repeat([True, False, True], [90, 8, 102])
    >>> worse = Slice(kind="folder", name="night", rows=np.arange(80, 110))
    >>> found = table([worse], correct, np.zeros(200), ~correct, 0.95)
    >>> row = found.iloc[0]
    >>> f"{row['n']} inputs, {row['errors']} errors, p = {row['p_holm']:.1e}"
    '30 inputs, 8 errors, p = 1.1e-07'
    """
    kept = [one for one in slices if len(one.rows) >= MIN_INPUTS]
    n = np.array([len(one.rows) for one in kept], int)
    errors = np.array([(~correct[one.rows]).sum() for one in kept], int)
    caught = np.array([flagged[one.rows].sum() for one in kept], int)
    alpha = 1 - confidence_level
    right = proportion_confint(n - errors, n, alpha=alpha, method="beta")
    alarms = proportion_confint(caught, n, alpha=alpha, method="beta")
    p = stats.hypergeom.sf(errors - 1, len(correct), (~correct).sum(), n)
    found = pd.DataFrame(
        {
            "kind": [one.kind for one in kept],
            "name": [one.name for one in kept],
            "n": n,
            "errors": errors,
            "accuracy": 1 - errors / n,
            "accuracy_low": right[0],
            "accuracy_high": right[1],
            "median_nll": [float(np.median(nll[one.rows])) for one in kept],
            "flagged_rate": caught / n,
            "flagged_rate_low": alarms[0],
            "flagged_rate_high": alarms[1],
            "p": p,
            "p_holm": multipletests(p, method="holm")[1] if kept else p,
        }
    )
    return found.sort_values(["p", "kind", "name"], ignore_index=True)


def label_errors(correct: Array, nll: Array, confidence: Array, most: int) -> Array:
    """Return the rows of mistakes that look like errors of the label, int64, likeliest first.

    These are mistakes that are denser (``nll``, nats) than the median of the correct answers and
    of which the classifier is surer (``confidence``, 0 to 1) than of the median correct answer:
    where it has seen such inputs, and is sure, the label is to be looked at. By falling
    confidence, at most ``most``.
    """
    suspect = (
        ~correct & (nll < np.median(nll[correct])) & (confidence > np.median(confidence[correct]))
    )
    rows = np.flatnonzero(suspect)
    return rows[np.argsort(-confidence[rows], kind="stable")][:most]


def nearest(known: Array, asked: Array, count: int) -> Array:
    """Return the ``count`` rows of ``known`` (m, d) nearest to each of ``asked`` (n, d).

    Euclidean distance; int64 (n, count), nearest first.

    Examples
    --------
    >>> nearest(np.array([[0.0], [1.0], [5.0]]), np.array([[4.0]]), 2).tolist()
    [[2, 1]]
    """
    if not len(asked):
        return np.zeros((0, min(count, len(known))), np.int64)
    search = NearestNeighbors(n_neighbors=min(count, len(known))).fit(known)
    return search.kneighbors(asked, return_distance=False).astype(np.int64)
