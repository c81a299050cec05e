"""The results in Markdown, from the small tables that git tracks: what README.md shows."""

from pathlib import Path
from typing import Any

import pandas as pd

from mistakes.artifacts import load_csv, load_json
from mistakes.config.params import Params
from mistakes.evaluation.score_table import CAUSES, COMPARED, OWN, named
from mistakes.statistics.intervals import Estimate


def markdown(data: Path, name: str, values: Params) -> str:
    """Return classifier ``name``'s results as Markdown tables.

    values : the parameters that the results in ``data`` were made with. Raises InputError where a
    table is missing.
    """
    scores = _scores(data, name, values.detection.alpha)
    left_out = load_json(data / "detectors" / name / "applicability.json")["baselines"]
    tables = _detection(scores, values.detection.confidence_level) + _not_applicable(left_out)
    return evidence(data, name, values) + "\n" + tables


def evidence(data: Path, name: str, values: Params) -> str:
    """Return the first part of it: accuracy, likelihood and hypotheses."""
    found = {
        stage: load_json(data / stage / name / "metrics.json") for stage in ("classifier", "scores")
    }
    rows = load_json(data / "hypotheses" / name / "hypotheses.json")
    return _classifier(found) + "\n" + _hypotheses(rows, values.hypotheses.confidence_level)


def _scores(data: Path, name: str, alpha: float) -> dict[str, dict[str, float]]:
    """Return by score what stage detection found: macro_auroc with its interval, auroc_CAUSE, and
    false_alarms at ``alpha``.
    """
    folder = data / "detection" / name
    alarms = load_csv(folder / "false_alarms.csv").query("alpha == @alpha")
    macro = load_csv(folder / "macro.csv").merge(alarms[["score", "false_alarms"]], on="score")
    found = macro.dropna(subset="macro_auroc").to_dict("records")  # NaN where no set is evaluated
    return {row.pop("score"): row for row in found}


def _classifier(found: dict[str, dict[str, Any]]) -> str:
    s, c = found["scores"], found["classifier"]
    accuracy = f"Accuracy: {100 * s['accuracy_test']:.2f} % on test images{_on_fit(c)}."
    nll = (
        f"flow {s['nll_test']:.2f} nats, full-covariance Gaussian {s['nll_test_gaussian']:.2f}"
        " nats."
    )
    return f"{accuracy} Negative log-likelihood of test features: {nll}\n"


def _on_fit(c: dict[str, Any]) -> str:
    if "accuracy_fit" not in c:  # an own classifier: which images it was trained on is not known
        return ""
    whole = f"{100 * c['accuracy_fit']:.2f} % on training images"
    if "n_labelled" not in c:
        return f", {whole}"
    return (
        f", {100 * c['accuracy_labelled']:.2f} % on the {c['n_labelled']} training images with"
        f" labels, {whole} in all"
    )


def _hypotheses(rows: list[dict[str, Any]], level: float) -> str:
    lines = [
        f"| hypothesis | failures | n | A12 ({100 * level:g} % interval) | p, Holm |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["hypothesis"], row["set"])):
        test = row["set"] == "test"
        failures = "misclassified test images" if test else row["set"].replace("_", " ")
        a12 = Estimate(row["a12"], row["a12_low"], row["a12_high"])
        cells = [row["hypothesis"], failures, row["n"], f"{a12:.3f}", f"{row['p_holm']:.2g}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _detection(scores: dict[str, dict[str, float]], level: float) -> str:
    """AUROC of each score: mean over the sets of each cause, macro with interval, and false
    alarms.
    """
    lines = [
        "| score | mistakes | adversarial | OOD"
        f" | macro ({100 * level:g} % interval) | false alarms |",
        "|---|---|---|---|---|---|",
    ]
    best_first = sorted(scores, key=lambda score: -scores[score]["macro_auroc"])
    lines += [f"| {_score(score, scores[score])} |" for score in best_first]
    return "\n".join(lines) + "\n"


def _not_applicable(left_out: dict[str, str]) -> str:
    """Return a row of ``_detection`` for each baseline that stage detectors left out."""
    return "".join(
        f"| {score.replace('_', '-')} | not applicable: {why} | | | | |\n"
        for score, why in left_out.items()
    )


def _score(score: str, found: dict[str, float]) -> str:
    aurocs = [found.get(f"auroc_{cause}") for cause in CAUSES]
    cells = ["–" if pd.isna(auroc) else f"{auroc:.3f}" for auroc in aurocs]
    macro = Estimate(*(found[f"macro_auroc{end}"] for end in ("", "_low", "_high")))
    alarms = f"{100 * found['false_alarms']:.1f} %"
    return " | ".join([named(score), *cells, f"{macro:.3f}", alarms])


def closing(data: Path, name: str, values: Params) -> list[str]:
    """Return two sentences: what the tests found, and what the guard does. Raises InputError where
    a table is missing.
    """
    summary = load_json(data / "detection" / name / "summary.json")
    rows = load_json(data / "hypotheses" / name / "hypotheses.json")
    shown = [row for row in rows if row["p_holm"] <= values.hypotheses.alpha]
    of_test = next((row for row in rows if row["hypothesis"] == "H1"), None)
    a12 = f"; mistakes are the less likely inputs with A12 {of_test['a12']:.2f}" if of_test else ""
    tests = f"{len(shown)} of {len(rows)} tests show that failures have low density{a12}"
    found = f"{name}: {100 * summary['accuracy']:.1f} % of the test images are right; {tests}"
    if "macro" not in summary:
        return [found, f"{name}: no set has enough failures to say how well they are found"]
    alarms = f"{100 * summary['false_alarms']:.1f} % of the right answers flagged"
    against = f"AUROC {summary['macro']:.3f}, best baseline {summary['macro_best']:.3f}"
    return [found, f"{name}: the guard finds failures with {against}; {alarms}"]


def comparison(data: Path, names: list[str], values: Params) -> str:
    """Return classifiers side by side as Markdown: the hypotheses, then the main scores.

    H2 and H3 count the sets in which they are shown. Raises InputError where a table is missing.
    """
    tested_at, detected_at = (
        f"{100 * section.confidence_level:g} % interval"
        for section in (values.hypotheses, values.detection)
    )
    tested = [
        (
            f"| classifier | test accuracy | H1: A12 ({tested_at}), p | H2, attacks | H3, sets |"
            " H4: A12, p | H5: error rate of the least likely decile over that of the"
            " likeliest, p |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    detected = [
        (
            "| classifier | score | mistakes | adversarial | OOD"
            f" | macro ({detected_at}) | false alarms |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        accuracy = load_json(data / "scores" / name / "metrics.json")["accuracy_test"]
        rows = load_json(data / "hypotheses" / name / "hypotheses.json")
        side = _side(rows, values.hypotheses.alpha)
        tested.append(f"| {name} | {100 * accuracy:.2f} % | {side} |")
        scores = _scores(data, name, values.detection.alpha)
        if not scores:
            detected.append(f"| {name} | no set has enough failures to be evaluated | | | | | |")
            continue
        others = [s for s in scores if s not in (*COMPARED, *OWN)]
        best = max(others, key=lambda score: scores[score]["macro_auroc"])
        detected += [f"| {name} | {_score(score, scores[score])} |" for score in (*COMPARED, best)]
    return "\n".join(tested) + "\n\n" + "\n".join(detected) + "\n"


def _side(rows: list[dict[str, Any]], alpha: float) -> str:
    of_test = {row["hypothesis"]: row for row in rows if row["set"] == "test"}

    def cell(hypothesis: str, form: str, *columns: str) -> str:
        values = [of_test.get(hypothesis, {}).get(column) for column in columns]
        # such as no error in the likeliest decile
        return "–" if None in values else form.format(*values)

    def shown(hypothesis: str) -> str:
        p = [row["p_holm"] for row in rows if row["hypothesis"] == hypothesis]
        return f"{sum(value <= alpha for value in p)} of {len(p)}"

    h1 = cell("H1", "{:.3f} ({:.3f} to {:.3f}), {:.2g}", "a12", "a12_low", "a12_high", "p_holm")
    h4 = cell("H4", "{:.3f}, {:.2g}", "a12", "p_holm")
    h5 = f"{cell('H5', '{:.0f}', 'rate_ratio')}, {cell('H5', '{:.2g}', 'p_holm')}"
    return f"{h1} | {shown('H2')} | {shown('H3')} | {h4} | {h5}"
