"""The score table, scores.parquet of a classifier: a row for every input that was scored.

====================  =======  ====================================================================
column                dtype    what
====================  =======  ====================================================================
origin                str      id (clean test images), fit, adversarial, shifted or ood
set                   str      name of the attack, corruption or OOD set; ``test``, ``fit``
index                 int64    of the input in its set; of the clean test image that it came from
label                 int64    0 to k - 1; -1 where the input is none of the classes
prediction            int64    0 to k - 1
correct               bool     prediction == label
reason                str      the part of the guard that is most surprised, each by its share
map_1, map_2          float64  the first two coordinates in which the flow sees the features
SCORE                 float64  one column for each score: higher is more anomalous
p_SCORE               float64  its conformal p-value, calibrated on cal
====================  =======  ====================================================================
"""

from pathlib import Path

import pandas as pd

from mistakes.artifacts import Array, load_table, save_table
from mistakes.errors import InputError

ORIGINS = ("id", "fit", "adversarial", "shifted", "ood")
CAUSES = ("mistakes", "adversarial", "ood")  # of failure
KEYS = {
    "origin": "object",
    "set": "object",
    "index": "int64",
    "label": "int64",
    "prediction": "int64",
    "correct": "bool",
    "reason": "object",
    "map_1": "float64",
    "map_2": "float64",
}
TITLES = {"nll": "log-density"}  # of scores whose title is not their name
OWN = ("guard", "nll", "joint", "posterior")  # scores of this project: all others are baselines
COMPARED = ("guard", "nll", "msp")  # shown side by side, and with them the best baseline
MIN_FAILURES = 2  # failures that a set must have to be evaluated

Failures = dict[tuple[str, str], pd.DataFrame]  # by cause and set


def load(path: Path) -> pd.DataFrame:
    """Return a score table that was saved. Raises InputError where it is missing or no such."""
    return check(load_table(path), path)


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a score table. Raises InputError where a column is missing or of another kind."""
    save_table(path, check(table, path))


def check(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the table; InputError naming ``path`` where it is not as the module says."""
    for column, kind in KEYS.items():
        if column not in table:
            raise InputError(path, "columns", ", ".join(table.columns), f"a column {column}")
        found = table[column].dtype
        if kind == "object" and not pd.api.types.is_string_dtype(found):
            raise InputError(path, f"column {column}", str(found), "text")
        if kind != "object" and found != kind:
            raise InputError(path, f"column {column}", str(found), kind)
    for origin in set(table["origin"]) - set(ORIGINS):
        raise InputError(path, "column origin", origin, f"one of {', '.join(ORIGINS)}")
    for score in table.columns.drop(list(KEYS)):
        twin = score.removeprefix("p_") if score.startswith("p_") else f"p_{score}"
        if twin not in table:
            raise InputError(path, f"column {score}", "alone", f"a column {twin} with it")
    return table


def scores(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the scores, in the order of the columns.

    Examples
    --------
    >>> scores(pd.DataFrame(columns=["guard", "nll", "p_guard", "p_nll"]))
    ('guard', 'nll')
    """
    return tuple(c.removeprefix("p_") for c in table.columns if c.startswith("p_"))


def named(score: str) -> str:
    """Return the name of a score for people, as tables in Markdown have it.

    Examples
    --------
    >>> named("nll"), named("relative_mahalanobis")
    ('log-density', 'relative-mahalanobis')
    """
    return TITLES.get(score, score.replace("_", "-"))


def of_origin(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Return the rows of an origin: id, fit, adversarial, shifted or ood.

    Examples
    --------
    >>> len(of_origin(pd.DataFrame({"origin": ["id", "ood", "ood"]}), "ood"))
    2
    """
    return table[table["origin"] == origin]


def test(table: pd.DataFrame) -> pd.DataFrame:
    """Return the clean test images.

    Examples
    --------
    >>> len(test(pd.DataFrame({"origin": ["id", "ood"], "set": ["test", "noise"]})))
    1
    """
    return of_origin(table, "id")


def successes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the reference: clean test images that are classified correctly.

    Examples
    --------
    >>> images = {"origin": ["id", "id"], "set": ["test", "test"], "correct": [True, False]}
    >>> len(successes(pd.DataFrame(images)))
    1
    """
    return table[(table["origin"] == "id") & table["correct"]]


def failures(table: pd.DataFrame) -> Failures:
    """Return the failures of each (cause, set), in the order of CAUSES.

    These are misclassified test images, successful adversarial images, and OOD images. A failed
    attack is no failure, nor is a shifted image.

    Examples
    --------
    >>> table = pd.DataFrame({"origin": ["id", "id", "ood"], "set": ["test", "test", "noise"],
    ...                       "correct": [True, False, False]})
    >>> {key: len(part) for key, part in failures(table).items()}
    {('mistakes', 'test'): 1, ('ood', 'noise'): 1}
    """
    found = {}
    for (origin, name), part in sets(table[~table["correct"]]).items():
        found["mistakes" if origin == "id" else origin, name] = part
    return {key: found[key] for cause in CAUSES for key in found if key[0] == cause}


def evaluated(table: pd.DataFrame) -> Failures:
    """Return those sets of failures that have enough members to be evaluated."""
    return {key: part for key, part in failures(table).items() if len(part) >= MIN_FAILURES}


def sets(table: pd.DataFrame) -> Failures:
    """Return the rows of each (origin, set), in the order of the table."""
    groups = table.groupby(["origin", "set"], observed=True, sort=False)
    return {(str(origin), str(name)): part for (origin, name), part in groups}


def flagged(table: pd.DataFrame, score: str, alpha: float) -> Array:
    """Return whether each row is flagged by ``score`` at ``alpha``, bool (n,): p <= alpha.

    Examples
    --------
    >>> flagged(pd.DataFrame({"p_msp": [0.01, 0.5]}), "msp", 0.05).tolist()
    [True, False]
    """
    return table[f"p_{score}"].to_numpy() <= alpha


def left_out(table: pd.DataFrame) -> list[str]:
    """Return a sentence for each set that has too few failures to be evaluated."""
    names = {"id": "the test images", "adversarial": "the attack {}", "ood": "the OOD set {}"}
    sentences = []
    for (origin, name), part in sets(table).items():
        n = int((~part["correct"]).sum())
        if origin in names and n < MIN_FAILURES:
            gave = f"{names[origin].format(name)} gave {n} failure{'' if n == 1 else 's'}"
            sentences.append(
                f"{gave}; AUROC and the share that is flagged need at least {MIN_FAILURES} and"
                " leave them out"
            )
    return sentences
