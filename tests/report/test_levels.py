"""The levels that report and Markdown state are those of params.yaml."""

import shutil
from pathlib import Path

import pytest
from commands import ROOT, SMOKE

from mistakes.config import params
from mistakes.report import markdown, page


@pytest.fixture
def values() -> params.Params:
    text = SMOKE.replace("confidence_level: 0.95", "confidence_level: 0.9")
    return params.parse(
        text.replace("alpha: 0.05                   # of the family", "alpha: 0.2 # ")
    )


def test_intervals_have_the_level_of_the_parameters(values: params.Params, tmp_path: Path) -> None:
    name = next(iter(params.load(ROOT / "params.yaml").classifiers))
    for file in (
        "classifier/{}/metrics.json",
        "scores/{}/metrics.json",
        "hypotheses/{}/hypotheses.json",
        "detection/{}/macro.csv",
        "detection/{}/false_alarms.csv",
        "detectors/{}/applicability.json",
    ):
        copy = tmp_path / file.format(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "data" / file.format(name), copy)
    for text in (
        markdown.markdown(tmp_path, name, values),
        markdown.comparison(tmp_path, [name], values),
    ):
        assert text.count("90 % interval") == 2
        assert "95 %" not in text


def test_hypotheses_count_as_shown_at_the_alpha_of_their_family(values: params.Params) -> None:
    row = {"hypothesis": "H1", "p_holm": 0.1, "a12_high": 0.7}
    assert values.hypotheses.alpha == 0.2
    assert page._verdict(row, values.hypotheses.alpha) == "lower density"
    assert page._verdict(row, 0.05) == "no evidence"
    rows = [
        {"hypothesis": "H2", "set": "pgd", "p_holm": 0.1},
        {"hypothesis": "H2", "set": "cw", "p_holm": 0.3},
        {"hypothesis": "H3", "set": "noise", "p_holm": 0.01},
    ]
    assert "| 1 of 2 | 1 of 1 |" in markdown._side(rows, 0.2)
    assert "| 0 of 2 | 1 of 1 |" in markdown._side(rows, 0.05)


def test_the_template_states_no_level_of_its_own() -> None:
    template = (ROOT / "mistakes/report/report.html.j2").read_text()
    assert "0.05" not in template
    assert "95 %" not in template
