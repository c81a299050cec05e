"""The report: tables and figures of every classifier as one self-contained HTML page."""

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from mistakes.artifacts import Array
from mistakes.config import sections
from mistakes.data.precomputed import REASON
from mistakes.evaluation import score_table
from mistakes.evaluation.comparison import Comparison
from mistakes.report import plots
from mistakes.report.titles import title

CAUSES = {"mistakes": "Mistakes", "adversarial": "Adversarial", "ood": "Out of distribution"}
TABLES = (  # of stage detection
    "detection",
    "macro",
    "groups",
    "heat",
    "differences",
    "mixtures",
    "false_alarms",
    "accepted",
    "flagged",
    "undetected",
    "shift",
    "roc",
    "histogram",
    "deciles",
)
BASELINES = 8  # that have a column in the tables, the best by macro AUROC
PLAIN = {
    "mistakes": "wrong answers",
    "adversarial": "successful attacks",
    "ood": "inputs that are none of the classes",
}


@dataclass(frozen=True)
class Evidence:
    """What the report shows of one classifier: the outputs of scores, flow, guard, tests,
    detection, adaptive.

    applicability : ``baselines``, those that are left out, with the reason, and ``guard_shares``,
    those of the guard's parts. budget : the curve by which these were chosen, of no row where they
    were given.
    """

    name: str
    scores: pd.DataFrame
    scores_metrics: dict[str, float]
    flow_metrics: dict[str, float]
    guard_metrics: dict[str, float]
    hypotheses: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    adaptive: pd.DataFrame
    tables: dict[str, pd.DataFrame]  # by the names in TABLES
    warnings: list[str]  # sentences of the stages that this classifier went through
    applicability: dict[str, dict[str, Any]]
    budget: pd.DataFrame


@dataclass(frozen=True)
class Inputs:
    """The test inputs: images uint8 (n, c, h, w), None where outputs are given; their indices;
    names of the classes.

    warnings : sentences about the data, whatever the classifier.
    """

    images: Array | None
    indices: Array
    classes: list[str]
    warnings: list[str]


def render(
    evidence: list[Evidence],
    inputs: Inputs,
    detection: sections.Detection,
    hypotheses: sections.Hypotheses,
    gallery: int,
    explore: str,
    comparison: Comparison | None = None,
) -> str:
    """Return the page, which does not depend on time or host.

    detection, hypotheses : sections of params.yaml, which say levels. gallery : how many of the
    least likely test images are shown. explore : link to the page to look around in.
    comparison : where there are several classifiers.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "p": p_value, "title": title}
    template = environment.from_string(
        files("mistakes.report").joinpath("report.html.j2").read_text()
    )
    classifiers = [
        _classifier(one, inputs, detection.alpha, hypotheses.alpha, gallery) for one in evidence
    ]
    reason = REASON if inputs.images is None else None
    return template.render(
        classifiers=classifiers,
        alpha=detection.alpha,
        delta=detection.delta,
        confidence_level=detection.confidence_level,
        tested=hypotheses,
        explore=explore,
        causes=CAUSES,
        plain=PLAIN,
        given=reason,
        comparison=comparison,
        warnings=inputs.warnings,
    )


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal; a share of nothing, NaN, as a dash."""
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    """Return a p-value with two digits; one that is 0 in floating point as a bound."""
    if p == 0:
        return "< 1e-300"
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def _classifier(
    one: Evidence, inputs: Inputs, alpha: float, family_alpha: float, gallery: int
) -> dict[str, Any]:
    tables = one.tables
    macro, detection = (
        tables["macro"].sort_values("macro_auroc", ascending=False),
        tables["detection"],
    )
    shown = _shown(list(macro["score"]), set(one.adaptive["target"]))
    others = detection[detection["cause"] != "mistakes"]
    groups = {"correct": "correct", "mistakes": "mistakes"}
    groups |= dict(zip(others["set"], others["cause"], strict=True))
    alarms = tables["false_alarms"]
    return {
        "name": one.name,
        "warnings": one.warnings,
        "accuracy": one.scores_metrics["accuracy_test"],
        "metrics": one.scores_metrics | one.flow_metrics,
        "gain": one.scores_metrics["nll_test_gaussian"] - one.scores_metrics["nll_test"],
        "gap": one.scores_metrics["nll_test"] - one.flow_metrics["nll_fit"],
        "verdicts": [_verdict(row, family_alpha) for row in one.hypotheses],
        "groups": _groups(tables["groups"], shown),
        "accepted": tables["accepted"].to_dict("records"),
        "calibrating": one.guard_metrics["n_calibrating"],
        "hypotheses": one.hypotheses,
        "controls": one.controls,
        "scores": shown,
        "best": macro.iloc[0].to_dict(),
        "macro": {row["score"]: row for row in macro.to_dict("records")},
        "auroc": _by_set(detection[detection["score"].isin(shown)]),
        "guard": _operating(tables["flagged"], alarms, "guard"),
        "false_alarms": {
            row["score"]: row for row in alarms[alarms["alpha"] == alpha].to_dict("records")
        },
        "against": list(tables["differences"].query("cause == 'macro'")["against"].unique()),
        "undetected": _undetected(tables["undetected"], one.adaptive, shown),
        "mixtures": _mixtures(tables["mixtures"]),
        "heat": plots.heat(tables["heat"]) if len(detection) else None,
        "differences": (
            plots.differences(tables["differences"], "guard") if len(detection) else None
        ),
        "shift": plots.shift(tables["shift"], "guard") if len(tables["shift"]) else None,
        "histogram": plots.histograms(tables["histogram"], groups),
        "deciles": plots.deciles(tables["deciles"]),
        "extremes": tables["deciles"].iloc[[0, -1]].to_dict("records"),
        "roc": plots.roc(tables["roc"].query("score == 'nll'")) if len(detection) else None,
        "left_out": one.applicability["baselines"],
        "gallery": _gallery(one.scores, inputs, gallery),
        "causes": [cause for cause in CAUSES if cause in set(detection["cause"])],
        "shares": one.applicability["guard_shares"],
        "budget": _budget(one.budget),
    }


def _shown(scores: list[str], attacked: set[str]) -> list[str]:
    """Return the scores that have a column, in their order: this project's, those that are
    attacked, and the best BASELINES of the others.
    """
    baselines = [score for score in scores if score not in score_table.OWN]
    kept = {*score_table.OWN, *attacked, *baselines[:BASELINES]}
    return [score for score in scores if score in kept]


def _operating(flagged: pd.DataFrame, alarms: pd.DataFrame, score: str) -> dict[str, Any]:
    """Return one score's flagged rates by set and cause, and false alarms, at every alpha."""
    mine = flagged[flagged["score"] == score]
    shares = mine.groupby(["cause", "alpha"], sort=False)["flagged"].mean()
    alphas = sorted(alarms["alpha"].unique())
    return {
        "alphas": alphas,
        "sets": [
            {
                "cause": cause,
                "set": name,
                "n": int(part["n"].iloc[0]),
                "at": part.set_index("alpha").to_dict("index"),
            }
            for (cause, name), part in mine.groupby(["cause", "set"], sort=False)
        ],
        "causes": {cause: {a: shares[cause, a] for a in alphas} for cause, _ in shares.index},
        "alarms": alarms[alarms["score"] == score].set_index("alpha").to_dict("index"),
    }


def _groups(table: pd.DataFrame, shown: list[str]) -> list[dict[str, Any]]:
    """Return a row for each group of OOD sets: its name, its sets, and each score's AUROC."""
    rows = []
    for group, part in table[table["score"].isin(shown)].groupby("group", sort=False):
        cells = {row["score"]: row for row in part.to_dict("records")}
        best = max(cells, key=lambda score: cells[score]["auroc"])
        sets = [title(name) for name in part["sets"].iloc[0].split()]
        rows.append({"group": group, "sets": ", ".join(sets), "cells": cells, "best": best})
    return rows


def _undetected(
    static: pd.DataFrame, adaptive: pd.DataFrame, scores: list[str]
) -> list[dict[str, Any]]:
    """Return a row per attack: who was attacked, how many images, and each score's
    undetected-success rate.
    """
    known = static.assign(
        attack=static["set"], eps=np.nan, target="none", rate=static["undetected"]
    )
    rows = []
    for kind, table in (("static", known), ("adaptive", adaptive.assign(attack=""))):
        for (attack, target, eps), part in table.groupby(
            ["attack", "target", "eps"], sort=False, dropna=False
        ):
            first = part.iloc[0]
            cells = {row["score"]: row for row in part.to_dict("records")}
            rows.append(
                {
                    "kind": kind,
                    "attack": attack,
                    "target": target,
                    "eps": eps,
                    "attempted": first["attempted"],
                    "succeeded": first["succeeded"],
                    "cells": {s: cells[s] for s in scores},
                }
            )
    return rows


def _mixtures(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per score, by falling quality on the first mixture, with the values of every
    mixture.
    """
    if not len(table):
        return []
    first = table["mixture"].iloc[0]
    order = table[table["mixture"] == first].sort_values("augrc")["score"]
    by_score = {
        score: part.set_index("mixture").to_dict("index") for score, part in table.groupby("score")
    }
    return [{"score": score, "at": by_score[score]} for score in order]


def _verdict(row: dict[str, Any], alpha: float) -> str:
    """Say in one word what a test found: the null is rejected, or not, or it looks the other way
    round.
    """
    if row["p_holm"] <= alpha:
        return {"H4": "adds to confidence", "H5": "rises"}.get(
            row["hypothesis"][:2], "lower density"
        )
    return "higher density" if row["a12_high"] < 0.5 else "no evidence"


def _by_set(detection: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per set: its cause, size, and for each score AUROC with interval."""
    rows = []
    for (cause, name), part in detection.groupby(["cause", "set"], sort=False):
        cells = {row["score"]: row for row in part.to_dict("records")}
        best = max(cells, key=lambda score: cells[score]["auroc"])
        rows.append(
            {
                "cause": cause,
                "set": name,
                "n": int(part["n"].iloc[0]),
                "cells": cells,
                "best": best,
                "prevalence": float(part["prevalence"].iloc[0]),
            }
        )
    return rows


def _gallery(scores: pd.DataFrame, inputs: Inputs, count: int) -> list[dict[str, Any]]:
    test = score_table.test(scores).nlargest(count, "nll", keep="first")
    return [
        {
            "picture": None if inputs.images is None else png(inputs.images[row["index"]]),
            "row": int(inputs.indices[row["index"]]),
            "label": inputs.classes[row["label"]],
            "prediction": inputs.classes[row["prediction"]],
            "correct": bool(row["correct"]),
            "p": row["p_nll"],
        }
        for row in test.to_dict("records")
    ]


def png(image: Array) -> str:
    """Return a uint8 image (c, h, w) as a data URI."""
    pixels = np.asarray(image)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    data = io.BytesIO()
    picture.save(data, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _budget(curve: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the curve that has the chosen point, that one's share and AUROC first."""
    if not curve["chosen"].any():
        return []
    chosen = curve[curve["chosen"]]
    along = curve[curve["base"] == chosen["base"].iloc[0]]
    found: list[dict[str, Any]] = pd.concat([chosen, along]).to_dict("records")
    return found
