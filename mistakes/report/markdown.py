"""The results in Markdown, from the metrics.json files that git tracks: what README.md shows."""

from pathlib import Path
from typing import Any

from mistakes.artifacts import load_json
from mistakes.config.params import Params
from mistakes.evaluation.score_table import CAUSES, named
from mistakes.statistics.intervals import Estimate

BESIDE = ("guard", "nll", "msp")  # what comparison shows, and the best of the others


def markdown(data: Path, name: str, values: Params) -> str:
    """Return classifier ``name``'s results as Markdown tables.

    values : the parameters that the results in ``data`` were made with. Raises InputError where a
    metrics.json is missing.
    """
    detection, detectors = (
        load_json(data / stage / name / "metrics.json") for stage in ("detection", "detectors")
    )
    level = values.detection.confidence_level
    tables = _detection(detection, level) + _not_applicable(detectors)
    return evidence(data, name, values) + "\n" + tables


def evidence(data: Path, name: str, values: Params) -> str:
    """Return the first part of it: accuracy, likelihood and hypotheses."""
    stages = ("classifier", "scores", "hypotheses")
    found = {stage: load_json(data / stage / name / "metrics.json") for stage in stages}
    level = values.hypotheses.confidence_level
    return _classifier(found) + "\n" + _hypotheses(found["hypotheses"], level)


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


def _hypotheses(metrics: dict[str, Any], level: float) -> str:
    lines = [
        f"| hypothesis | failures | n | A12 ({100 * level:g} % interval) | p, Holm |",
        "|---|---|---|---|---|",
    ]
    for key in sorted(key.removesuffix(".a12") for key in metrics if key.endswith(".a12")):
        hypothesis, failures = key.split(".")
        m = {
            column: metrics[f"{key}.{column}"]
            for column in ("n", "a12", "a12_low", "a12_high", "p_holm")
        }
        failures = "misclassified test images" if failures == "test" else failures.replace("_", " ")
        interval = f"{Estimate(m['a12'], m['a12_low'], m['a12_high']):.3f}"
        lines.append(f"| {hypothesis} | {failures} | {m['n']} | {interval} | {m['p_holm']:.2g} |")
    return "\n".join(lines) + "\n"


def _detection(metrics: dict[str, Any], level: float) -> str:
    """AUROC of each score: mean over the sets of each cause, macro with interval, and false
    alarms.
    """
    scores = [key.removeprefix("macro_auroc.") for key in metrics if key.startswith("macro_auroc.")]
    lines = [
        "| score | mistakes | adversarial | OOD"
        f" | macro ({100 * level:g} % interval) | false alarms |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_score(metrics, score)} |"
        for score in sorted(scores, key=lambda s: -metrics[f"macro_auroc.{s}"])
    ]
    return "\n".join(lines) + "\n"


def _not_applicable(metrics: dict[str, Any]) -> str:
    """Return a row of ``_detection`` for each baseline that stage detectors left out."""
    start = "not_applicable."
    left_out = {
        key.removeprefix(start): why for key, why in metrics.items() if key.startswith(start)
    }
    return "".join(
        f"| {score.replace('_', '-')} | not applicable: {why} | | | | |\n"
        for score, why in left_out.items()
    )


def _score(metrics: dict[str, Any], score: str) -> str:
    cells = [named(score)]
    for cause in CAUSES:
        values = [
            v
            for k, v in metrics.items()
            if k.startswith(f"auroc.{cause}.") and k.endswith(f".{score}")
        ]
        cells.append(f"{sum(values) / len(values):.3f}" if values else "–")
    macro = Estimate(*(metrics[f"macro_auroc{end}.{score}"] for end in ("", "_low", "_high")))
    return " | ".join([*cells, f"{macro:.3f}", f"{100 * metrics[f'false_alarms.{score}']:.1f} %"])


def comparison(data: Path, names: list[str], values: Params) -> str:
    """Return classifiers side by side as Markdown: the hypotheses, then the main scores.

    H2 and H3 count the sets in which they are shown. Raises InputError where a metrics.json is
    missing.
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
        of = {
            s: load_json(data / s / name / "metrics.json")
            for s in ("scores", "hypotheses", "detection")
        }
        accuracy = f"{100 * of['scores']['accuracy_test']:.2f} %"
        side = _side(of["hypotheses"], values.hypotheses.alpha)
        tested.append(f"| {name} | {accuracy} | {side} |")
        macro = {
            k.removeprefix("macro_auroc."): v
            for k, v in of["detection"].items()
            if k.startswith("macro_auroc.")
        }
        if not macro:
            detected.append(f"| {name} | no set has enough failures to be evaluated | | | | | |")
            continue
        best = max(
            (score for score in macro if score not in (*BESIDE, "joint")),
            key=lambda score: macro[score],
        )
        detected += [f"| {name} | {_score(of['detection'], score)} |" for score in (*BESIDE, best)]
    return "\n".join(tested) + "\n\n" + "\n".join(detected) + "\n"


def _side(m: dict[str, Any], alpha: float) -> str:
    def cell(form: str, *columns: str) -> str:
        values = [m.get(column) for column in columns]
        return (
            "–" if None in values else form.format(*values)
        )  # such as no error in the likeliest decile

    def shown(hypothesis: str) -> str:
        p = [
            value
            for key, value in m.items()
            if key.startswith(f"{hypothesis}.") and key.endswith(".p_holm")
        ]
        return f"{sum(value <= alpha for value in p)} of {len(p)}"

    h1 = cell(
        "{:.3f} ({:.3f} to {:.3f}), {:.2g}",
        "H1.test.a12",
        "H1.test.a12_low",
        "H1.test.a12_high",
        "H1.test.p_holm",
    )
    h4 = cell("{:.3f}, {:.2g}", "H4.test.a12", "H4.test.p_holm")
    h5 = f"{cell('{:.0f}', 'H5.test.rate_ratio')}, {cell('{:.2g}', 'H5.test.p_holm')}"
    return f"{h1} | {shown('H2')} | {shown('H3')} | {h4} | {h5}"
