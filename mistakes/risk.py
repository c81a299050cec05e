"""Risk and coverage: what is left to err when the most anomalous inputs are refused, on mixtures of inputs.

Risk is the share of failures (loss 0 or 1) among accepted inputs; coverage is the share of inputs accepted. Inputs are
accepted in ascending order of their score.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import xlog1py
from sklearn.metrics import average_precision_score, roc_auc_score

from mistakes.artifacts import Array
from mistakes.detection import evaluated


@dataclass(frozen=True)
class Areas:
    """Areas under risk-coverage curves; lower is better."""

    aurc: float
    e_aurc: float
    augrc: float


def areas(scores: Array, failures: Array, weights: Array) -> Areas:
    """Return the areas of scores (n,), failures bool (n,) under positive weights (n,), whose sum does not matter.

    aurc : integral over coverage c of the selective risk E(c) / c, E(c) the weight of accepted failures. e_aurc : aurc
    minus that of the best order, r + (1 - r) ln(1 - r) for a share r of failures (Geifman, Uziel and El-Yaniv,
    "Bias-reduced uncertainty estimation for deep neural classifiers", 2019). augrc : integral of E(c), the generalised
    risk (Traub et al., "Overcoming common flaws in the evaluation of selective classification systems", 2024).

    Among equal scores E grows in proportion to c, the expected value over all orders, also within one input. The
    integrals over such a piece are in closed form, so a weight of 2 is exactly two copies. (fd-shifts calls this
    non-linear interpolation; torch-uncertainty sums over inputs, which is the limit of many inputs.)
    """
    _, group = np.unique(scores, return_inverse=True)
    share = weights / weights.sum()
    width = np.bincount(group, share)  # the coverage that each distinct score adds
    lost = np.bincount(group, share * failures)
    coverage, error = np.cumsum(width), np.cumsum(lost)
    before, error_before = np.r_[0.0, coverage[:-1]], np.r_[0.0, error[:-1]]
    risk = lost / width
    # integral of (E0 + risk (c - c0)) / c from c0 to c1; the first piece starts at E0 = c0 = 0
    logs = np.log1p(width[1:] / before[1:])
    aurc = lost.sum() + ((error_before - risk * before)[1:] * logs).sum()
    r = error[-1]
    augrc = (width * (error_before + error) / 2).sum()
    return Areas(float(aurc), float(aurc - (r + xlog1py(1 - r, -r))), float(augrc))


def weigh(table: pd.DataFrame, share: float) -> pd.Series:
    """Return the weights, by row of ``table``, of a mixture in which ``share`` of the inputs is adversarial or OOD.

    The rest are all clean test images, equally. Of the share, adversarial images (successful attacks) and OOD images
    have half each, or one has all where there is no other; within a source all sets weigh the same. Weights, not
    copies, so nothing is drawn. Sets that are not evaluated are left out. Empty where there is nothing to make the
    share of.
    """
    clean = table.index[table["source"] == "id"]
    weights = [pd.Series((1 - share) / len(clean), clean)]
    foreign = {key: part.index for key, part in evaluated(table).items() if key[0] != "mistakes"}
    if share > 0 and not foreign:
        return pd.Series(dtype=float)
    sources = [source for source, _ in foreign]
    for (source, _), index in foreign.items() if share > 0 else ():
        weights.append(pd.Series(share / len(set(sources)) / sources.count(source) / len(index), index))
    return pd.concat(weights)


def mixtures(table: pd.DataFrame, scores: tuple[str, ...], shares: Mapping[str, float], alpha: float) -> pd.DataFrame:
    """Return a row per mixture and score: mixture, foreign (its declared share of adversarial and OOD inputs),
    prevalence (of failures, mistakes included), score, aurc, e_aurc, augrc, auroc, aupr, flagged (share of inputs at
    alpha), precision (share of failures among the flagged; NaN where nothing is). A mixture without failures or
    without successes is left out.
    """
    rows = []
    for mixture, share in shares.items():
        weights = weigh(table, share)
        part, w = table.loc[weights.index], weights.to_numpy()
        failures = ~part["correct"].to_numpy(dtype=bool)
        if failures.all() or not failures.any():
            continue
        prevalence = float(w[failures].sum())
        for score in scores:
            values, flagged = part[score].to_numpy(), part[f"p_{score}"].to_numpy() <= alpha
            found = areas(values, failures, w)
            caught, every = float(w[flagged & failures].sum()), float(w[flagged].sum())
            rows.append({
                "mixture": mixture, "foreign": share, "prevalence": prevalence, "score": score,
                "aurc": found.aurc, "e_aurc": found.e_aurc, "augrc": found.augrc,
                "auroc": roc_auc_score(failures, values, sample_weight=w),
                "aupr": average_precision_score(failures, values, sample_weight=w),
                "flagged": every, "precision": caught / every if every else np.nan,
            })  # fmt: skip
    columns = "mixture foreign prevalence score aurc e_aurc augrc auroc aupr flagged precision"
    return pd.DataFrame(rows, columns=columns.split())
