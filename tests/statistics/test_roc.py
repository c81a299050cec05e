"""ROC statistics against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mistakes.statistics import resampling, roc

# ROC statistics


def test_roc_statistics_agree_with_scikit_learn_also_weighted(rng: np.random.Generator) -> None:
    f, s = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 300).round(1)  # rounded: with ties
    labels, scores = np.r_[np.ones(80), np.zeros(300)], np.r_[f, s]
    wf, ws = (
        next(resampling.bootstrap_weights(80, 3, rng)),
        next(resampling.bootstrap_weights(300, 3, rng)),
    )
    failures, successes = roc.weighted(f, wf), roc.weighted(s, ws)
    for i in range(3):
        w = np.r_[wf[:, i], ws[:, i]]
        area = pytest.approx(roc_auc_score(labels, scores, sample_weight=w))
        assert roc.auroc(failures, successes)[i] == area
        precision = average_precision_score(labels, scores, sample_weight=w)
        assert roc.average_precision(failures, successes)[i] == pytest.approx(precision)
        precision = average_precision_score(1 - labels, -scores, sample_weight=w)
        assert roc.average_precision_low(successes, failures)[i] == pytest.approx(precision)
        drawn_s, drawn_f = (
            np.sort(np.repeat(s, ws[:, i].astype(int))),
            np.repeat(f, wf[:, i].astype(int)),
        )
        threshold = drawn_s[int(np.ceil(0.95 * len(drawn_s))) - 1]
        assert roc.fpr95(failures, successes)[i] == pytest.approx((drawn_f <= threshold).mean())
