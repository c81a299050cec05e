"""Several classifiers side by side: which belong together, the numbers, and the page that shows
them.
"""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from checkouts import Checkout
from commands import ROOT

from mistakes import artifacts
from mistakes.config import params
from mistakes.evaluation import comparison, detection, repeated_runs
from mistakes.report import markdown

SETTINGS = detection.Settings(0.05, 200, 0.95, 0)
SCORES = ("guard", "nll", "msp", "knn")


def scored(rng: np.random.Generator, shift: float, n: int = 400, ood: bool = True) -> pd.DataFrame:
    """Scores of inputs whose failures stand ``shift`` above their successes."""
    sets = [("id", "test", True, 0.0, n), ("id", "test", False, shift, n // 5)]
    sets += [("ood", "noise", False, 2.0, 90)] if ood else []
    parts = [
        pd.DataFrame({"origin": origin, "set": name, "correct": correct}, index=range(size)).assign(
            **{score: rng.normal(mean, 1, size) for score in SCORES},
            **{f"p_{score}": 0.5 for score in SCORES},
        )
        for origin, name, correct, mean, size in sets
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        index=table.groupby("origin").cumcount()
    )  # counts test images, and images of noise


def test_entries_that_differ_in_their_seed_alone_belong_together() -> None:
    entries = {
        "a": {"seed": 0, "width": 8},
        "b": {"seed": 0, "width": 9},
        "c": {"seed": 5, "width": 8},
        "d": {"source": "features"},
    }
    assert comparison.groups(entries) == [("a", "c"), ("b",), ("d",)]


def test_lines_have_the_numbers_of_detection_and_of_seeds(rng: np.random.Generator) -> None:
    tables = {"a": scored(rng, 0.5), "c": scored(rng, 1.5), "b": scored(rng, 1.0, ood=False)}
    macros = {
        name: detection.evaluate(table, SCORES, SETTINGS).macro for name, table in tables.items()
    }
    tested = {
        "hypothesis": "H1",
        "set": "test",
        "a12": 0.7,
        "a12_low": 0.6,
        "a12_high": 0.8,
        "p_holm": 0.01,
    }
    by = {"a": [tested], "c": [tested, tested | {"hypothesis": "H3", "set": "noise"}], "b": []}
    found = comparison.compare(tables, macros, by, [("a", "c"), ("b",)], SETTINGS)
    together, a, c, b = found.lines
    assert [line.names for line in found.lines] == [("a", "c"), ("a",), ("c",), ("b",)]
    for line, name in ((a, "a"), (c, "c"), (b, "b")):
        assert line.accuracy == pytest.approx(400 / 480)
        for row in line.scores:
            assert row["macro"] == pytest.approx(
                macros[name].set_index("score").loc[row["score"], "macro_auroc"]
            )
            assert row["mistakes_low"] < row["mistakes"] < row["mistakes_high"]
        assert line.best in ("msp", "knn")
        assert {row["score"] for row in line.scores} == {"guard", "nll", "msp", line.best}
    expected = repeated_runs.across(
        {name: tables[name] for name in "ac"}, ("guard",), SETTINGS
    ).iloc[0]
    (guard,) = [row for row in together.scores if row["score"] == "guard"]
    assert guard["macro"] == pytest.approx(expected["macro"])
    assert guard["macro_high"] - guard["macro_low"] == pytest.approx(
        expected["macro_high"] - expected["macro_low"]
    )
    assert "ood" not in b.scores[0]
    assert [
        (row["hypothesis"], row["by"]["a"] is None, row["by"]["b"] is None)
        for row in found.hypotheses
    ] == [
        ("H1", False, True),
        ("H3", True, True),
    ]


def test_the_accuracy_of_trainings_that_differ_is_less_certain_than_that_of_one(
    rng: np.random.Generator,
) -> None:
    def judged(accuracy: float) -> pd.DataFrame:
        return pd.DataFrame({"origin": "id", "correct": np.arange(1000) < 1000 * accuracy})

    mean, low, high = comparison._accuracy([judged(0.8), judged(0.9)], SETTINGS)
    assert mean == pytest.approx(0.85)
    assert low < 0.81
    assert high > 0.89
    mean, low, high = comparison._accuracy([judged(0.85), judged(0.85)], SETTINGS)
    one = comparison._accuracy([judged(0.85)], SETTINGS)
    # both judge the same images, so that a second training that agrees makes nothing surer
    assert high - low == pytest.approx(one[2] - one[1], rel=0.15)


def test_the_report_begins_with_the_comparison(reproduced: Checkout) -> None:
    """The real stage, on the smoke run's files under three names: two runs and another
    classifier.
    """
    folder = reproduced.folder
    alone = (folder / "data/report/report.html").read_text()
    assert "side by side" not in alone
    made = []
    try:
        values = yaml.safe_load((folder / "params.yaml").read_text())
        first = values["classifiers"]["smoke"]
        values["classifiers"] |= {"again": first | {"seed": 1}, "narrow": first | {"width": 8}}
        (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        stages = (
            *("classifier", "flow", "detectors", "adversarial", "scores", "adaptive"),
            *("hypotheses", "detection", "guard"),
        )
        for stage in stages:
            for name in ("again", "narrow"):
                made.append(folder / "data" / stage / name)
                shutil.copytree(folder / "data" / stage / "smoke", made[-1])
        paths = (
            "images/test",
            "images/classes.json",
            "images/warnings.json",
            "ood/warnings.json",
            *stages,
            "explore",
            "again",
        )
        made.append(folder / "data/again")
        reproduced.run("python", "-m", "stages.report", *(f"data/{path}" for path in paths))
        page = (folder / "data/again/report.html").read_text()
    finally:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        reproduced.run("git", "checkout", "--quiet", "params.yaml")
    assert (
        page.index("side by side")
        < page.index("Classifier “smoke”")
        < page.index("Classifier “narrow”")
    )
    assert "mean of 2 runs" in page
    assert re.search(r"smoke, again</span>", page)
    assert not re.findall(r"""(?:src|href)=["']http""", page)
    # each classifier's own macro stands in its line
    macro = (
        artifacts.load_csv(folder / "data/detection/smoke/macro.csv")
        .set_index("score")
        .loc["guard", "macro_auroc"]
    )
    assert page.split("Hypotheses side by side")[0].count(f"<td>{macro:.3f}<span") >= 3


def test_comparison_in_markdown_names_the_best_baseline_and_counts_what_is_shown() -> None:
    values = params.load(ROOT / "params.yaml")
    name = next(iter(values.classifiers))
    tested = json.loads((ROOT / "data/hypotheses" / name / "hypotheses.json").read_text())
    table = artifacts.load_csv(ROOT / "data/detection" / name / "macro.csv")
    text = markdown.comparison(ROOT / "data", [name], values)
    macro = dict(zip(table["score"], table["macro_auroc"], strict=True))
    for own in ("guard", "joint", "nll"):
        macro.pop(own)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {name}")]
    assert [row[1] for row in rows[1:]] == [
        "guard",
        "log-density",
        "msp",
        max(macro, key=macro.get).replace("_", "-"),
    ]
    attacks = [row["p_holm"] for row in tested if row["hypothesis"] == "H2"]
    assert rows[0][3] == f"{sum(np.array(attacks) <= 0.05)} of {len(attacks)}"
