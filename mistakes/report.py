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

from mistakes import plots
from mistakes.artifacts import Array

TITLES = {
    "log_density": "log-density (flow)",
    "joint": "joint density",
    "msp": "MSP",
    "entropy": "entropy",
    "energy": "energy",
    "max_logit": "max logit",
    "mahalanobis": "Mahalanobis",
    "knn": "kNN",
}
SOURCES = {"mistakes": "Mistakes", "adversarial": "Adversarial", "ood": "Out of distribution"}


@dataclass(frozen=True)
class Evidence:
    """What the report shows of one classifier: the outputs of scores, flow, hypotheses and detection."""

    name: str
    scores: pd.DataFrame
    scores_metrics: dict[str, float]
    flow_metrics: dict[str, float]
    hypotheses: list[dict[str, Any]]
    detection: pd.DataFrame
    macro: pd.DataFrame
    false_alarms: pd.DataFrame
    roc: pd.DataFrame
    histogram: pd.DataFrame
    deciles: pd.DataFrame


def render(evidence: list[Evidence], images: Array, classes: list[str], alpha: float, confidence: float, resamples: int,
           gallery: int) -> str:  # fmt: skip
    """Return the page. ``images`` are the test images, uint8 (n, c, h, w); the page does not depend on time or host."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "p": p_value, "title": title}
    template = environment.from_string(files("mistakes").joinpath("templates/report.html.j2").read_text())
    classifiers = [_classifier(one, images, classes, gallery) for one in evidence]
    return template.render(
        classifiers=classifiers, alpha=alpha, confidence=confidence, resamples=resamples, sources=SOURCES
    )


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    """Return a p-value with two digits; one that is 0 in floating point as a bound."""
    if p == 0:
        return "< 1e-300"
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def title(name: str) -> str:
    """Return the printed name of a score or a set."""
    return TITLES.get(name, name.replace("_", " "))


def _classifier(one: Evidence, images: Array, classes: list[str], gallery: int) -> dict[str, Any]:
    best = one.macro.nlargest(1, "macro_auroc").iloc[0]
    groups = {"correct": "correct", "mistakes": "mistakes"}
    groups |= {row["set"]: row["source"] for row in one.detection.to_dict("records") if row["source"] != "mistakes"}
    gain = one.scores_metrics["nll_test_gaussian"] - one.scores_metrics["nll_test"]
    return {
        "name": one.name,
        "accuracy": one.scores_metrics["accuracy_test"],
        "metrics": one.scores_metrics | one.flow_metrics,
        "gain": gain,
        "gap": one.scores_metrics["nll_test"] - one.flow_metrics["nll_fit"],
        "verdicts": [_verdict(row) for row in one.hypotheses],
        "hypotheses": one.hypotheses,
        "scores": list(one.macro["score"]),
        "best": best.to_dict(),
        "macro": {row["score"]: row for row in one.macro.to_dict("records")},
        "auroc": _by_set(one.detection),
        "flagged": [row for row in one.detection.to_dict("records") if row["score"] == "log_density"],
        "false_alarms": {row["score"]: row for row in one.false_alarms.to_dict("records")},
        "histogram": plots.histograms(one.histogram, groups),
        "deciles": plots.deciles(one.deciles),
        "extremes": one.deciles.iloc[[0, -1]].to_dict("records"),
        "roc": plots.roc(one.roc),
        "gallery": _gallery(one.scores, images, classes, gallery),
    }


def _verdict(row: dict[str, Any]) -> str:
    """Say in one word what a test found: the null is rejected, or not, or it looks the other way round."""
    if row["p_holm"] <= 0.05:
        return "lower density"
    return "higher density" if row["a12_high"] < 0.5 else "no evidence"


def _by_set(detection: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per set: its source, size, and for each score AUROC with interval."""
    rows = []
    for (source, name), part in detection.groupby(["source", "set"], sort=False):
        cells = {row["score"]: row for row in part.to_dict("records")}
        best = max(cells, key=lambda score: cells[score]["auroc"])
        rows.append({"source": source, "set": name, "n": int(part["n"].iloc[0]), "cells": cells, "best": best,
                     "prevalence": float(part["prevalence"].iloc[0])})  # fmt: skip
    return rows


def _gallery(scores: pd.DataFrame, images: Array, classes: list[str], count: int) -> list[dict[str, Any]]:
    test = scores[scores["source"] == "id"].nlargest(count, "log_density", keep="first")
    return [
        {
            "picture": png(images[row["index"]]),
            "label": classes[row["label"]],
            "prediction": classes[row["prediction"]],
            "correct": bool(row["correct"]),
            "p": row["p_log_density"],
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
