"""The guard's shares, from a budget: how much the parts that find attacks and foreign inputs may
cost on mistakes, the one kind of failure that val has.

The parts that are best on the mistakes of val (confidence, with the probe in equal parts where that
is better) keep the share 1 - s; the others get s: evidence three times as much as each density. s
is the largest of SHARES at which the AUROC of the guard on the mistakes of val falls by at most
``fall`` from where s is nearly 0, the first of SHARES. No attack and no foreign input is looked at.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mistakes.artifacts import Array

SHARES = (0.001, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
UNSEEN = 0.1  # s where val has too few mistakes to tell
MIN_MISTAKES = 10  # mistakes of val that tell
NOTHING = pd.DataFrame({name: [] for name in ("base", "share", "auroc", "chosen")})  # no curve
UNTOLD = (
    f"val shows {{}} mistakes, fewer than {MIN_MISTAKES}, so they do not choose the guard's shares"
    f" (detectors.guard.shares: budget): attacks and foreign inputs get {UNSEEN:.0%}"
)


def chosen(
    surprises: Array, names: Sequence[str], wrong: Array, fall: float
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the share of each part, and the curve that chose them: ``curve`` with ``choose``'s
    column, or NOTHING where fewer than MIN_MISTAKES inputs are ``wrong``.

    Examples
    --------
    >>> found, points = chosen(np.zeros((5, 2)), ["confidence", "density"], np.arange(5) < 2, 0.01)
    >>> found, len(points)
    ({'confidence': 0.9, 'density': 0.1}, 0)
    """
    if wrong.sum() < MIN_MISTAKES:
        base = [name for name in ("confidence", "probe") if name in names]
        return shares(names, base, UNSEEN), NOTHING
    points = choose(curve(surprises, names, wrong), fall)
    row = points[points["chosen"]].iloc[0]
    return shares(names, row["base"].split("+"), float(row["share"])), points


def shares(names: Sequence[str], base: Sequence[str], s: float) -> dict[str, float]:
    """Return the share of each part, 1 in all: 1 - s of the ``base`` parts, s of the others; a
    probe that is not in the base has none.

    Examples
    --------
    >>> shares(["confidence", "probe", "evidence", "density"], ["confidence"], 0.2)
    {'confidence': 0.8, 'probe': 0.0, 'evidence': 0.15000000000000002, 'density': 0.05}
    """
    others = [name for name in names if name not in ("confidence", "probe")]
    weights = {name: 3.0 if name == "evidence" else 1.0 for name in others}
    found = dict.fromkeys(names, 0.0)
    found |= {name: s * weight / sum(weights.values()) for name, weight in weights.items()}
    return found | {name: (1 - s) / len(base) for name in base}


def curve(surprises: Array, names: Sequence[str], wrong: Array) -> pd.DataFrame:
    """Return base, share (s) and the AUROC of the guard on val at each of SHARES.

    surprises : -log p of the parts ``names`` (n, len(names)) of the inputs of val. wrong : bool
    (n,), of which at least one is a mistake and one is not.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = curve(rng.exponential(size=(90, 2)), ["confidence", "density"], np.arange(90) < 20)
    >>> found["base"].unique().tolist(), len(found) == len(SHARES)
    (['confidence'], True)
    """
    bases = [["confidence"], ["confidence", "probe"]][: 1 + ("probe" in names)]
    rows = []
    for base in bases:
        for s in SHARES:
            given = np.array([shares(names, base, s)[name] for name in names])
            with np.errstate(divide="ignore"):
                score = np.logaddexp.reduce(surprises + np.log(given), axis=1)
            auroc = roc_auc_score(wrong, score)
            rows.append({"base": "+".join(base), "share": s, "auroc": auroc})
    return pd.DataFrame(rows)


def choose(found: pd.DataFrame, fall: float) -> pd.DataFrame:
    """Return the curve with a column chosen, true in one row: the base that is better at the first
    share, and the largest share at which AUROC is at most ``fall`` lower than there.

    Examples
    --------
    >>> points = pd.DataFrame({"base": "a", "share": [0.0, 0.1, 0.2], "auroc": [0.9, 0.898, 0.8]})
    >>> choose(points, fall=0.005)["chosen"].tolist()
    [False, True, False]
    """
    first = found[found["share"] == found["share"].min()]
    base = first.loc[first["auroc"].idxmax()]
    good = (found["base"] == base["base"]) & (found["auroc"] >= base["auroc"] - fall)
    return found.assign(chosen=found.index == found.loc[good, "share"].idxmax())
