"""Mixtures of inputs as a user may meet them, and the risk that is left when the most anomalous are
refused.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from mistakes.evaluation import score_table
from mistakes.evaluation.score_table import evaluated
from mistakes.statistics.risk_coverage import areas


def weigh(table: pd.DataFrame, share: float) -> pd.Series:
    """Return the weights, by row of ``table``, of a mixture in which ``share`` of the inputs is
    adversarial or OOD.

    The rest are all clean test images, equally. Of the share, adversarial images (successful
    attacks) and OOD images have half each, or one has all where there is no other; within a cause
    all sets weigh the same. Weights, not copies, so nothing is drawn. Sets that are not evaluated
    are left out. Empty where there is nothing to make the share of.
    """
    clean = score_table.test(table).index
    weights = [pd.Series((1 - share) / len(clean), clean)]
    external = {key: part.index for key, part in evaluated(table).items() if key[0] != "mistakes"}
    if share > 0 and not external:
        return pd.Series(dtype=float)
    causes = [cause for cause, _ in external]
    for (cause, _), index in external.items() if share > 0 else ():
        weights.append(
            pd.Series(share / len(set(causes)) / causes.count(cause) / len(index), index)
        )
    return pd.concat(weights)


def mixtures(
    table: pd.DataFrame, scores: tuple[str, ...], shares: Mapping[str, float], alpha: float
) -> pd.DataFrame:
    """Return a row per mixture and score: mixture, external (its declared share of adversarial and
    OOD inputs), prevalence (of failures, mistakes included), score, aurc, e_aurc, augrc, auroc,
    aupr, flagged (share of inputs at alpha), precision (share of failures among the flagged; NaN
    where nothing is). A mixture without failures or without successes is left out.
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
            values, flagged = part[score].to_numpy(), score_table.flagged(part, score, alpha)
            found = areas(values, failures, w)
            caught, every = float(w[flagged & failures].sum()), float(w[flagged].sum())
            rows.append(
                {
                    "mixture": mixture,
                    "external": share,
                    "prevalence": prevalence,
                    "score": score,
                    "aurc": found.aurc,
                    "e_aurc": found.e_aurc,
                    "augrc": found.augrc,
                    "auroc": roc_auc_score(failures, values, sample_weight=w),
                    "aupr": average_precision_score(failures, values, sample_weight=w),
                    "flagged": every,
                    "precision": caught / every if every else np.nan,
                }
            )
    columns = "mixture external prevalence score aurc e_aurc augrc auroc aupr flagged precision"
    return pd.DataFrame(rows, columns=columns.split())
