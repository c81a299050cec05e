"""The results in Markdown, from the metrics.json files that git tracks: what README.md shows."""

from pathlib import Path
from typing import Any

from mistakes.artifacts import load_json

SOURCES = ("mistakes", "adversarial", "ood")


def markdown(data: Path, name: str) -> str:
    """Return classifier ``name``'s results as Markdown tables. Raises InputError where a metrics.json is missing."""
    return evidence(data, name) + "\n" + _detection(load_json(data / "detection" / name / "metrics.json"))


def evidence(data: Path, name: str) -> str:
    """Return the first part of it: accuracy, likelihood and hypotheses."""
    stages = ("classifier", "scores", "hypotheses")
    found = {stage: load_json(data / stage / name / "metrics.json") for stage in stages}
    return _classifier(found) + "\n" + _hypotheses(found["hypotheses"])


def _classifier(found: dict[str, dict[str, Any]]) -> str:
    s, c = found["scores"], found["classifier"]
    accuracy = f"Accuracy: {100 * s['accuracy_test']:.2f} % on test images{_on_fit(c)}."
    nll = f"flow {s['nll_test']:.2f} nats, full-covariance Gaussian {s['nll_test_gaussian']:.2f} nats."
    return f"{accuracy} Negative log-likelihood of test features: {nll}\n"


def _on_fit(c: dict[str, Any]) -> str:
    if "accuracy_fit" not in c:  # an own classifier: which images it was trained on is not known
        return ""
    whole = f"{100 * c['accuracy_fit']:.2f} % on training images"
    if "n_labelled" not in c:
        return f", {whole}"
    return (
        f", {100 * c['accuracy_labelled']:.2f} % on the {c['n_labelled']} training images with labels, {whole} in all"
    )


def _hypotheses(metrics: dict[str, Any]) -> str:
    lines = ["| hypothesis | failures | n | A12 (95 % interval) | p, Holm |", "|---|---|---|---|---|"]
    for key in sorted(key.removesuffix(".a12") for key in metrics if key.endswith(".a12")):
        hypothesis, failures = key.split(".")
        m = {column: metrics[f"{key}.{column}"] for column in ("n", "a12", "a12_low", "a12_high", "p_holm")}
        failures = "misclassified test images" if failures == "test" else failures.replace("_", " ")
        interval = f"{m['a12']:.3f} ({m['a12_low']:.3f} to {m['a12_high']:.3f})"
        lines.append(f"| {hypothesis} | {failures} | {m['n']} | {interval} | {m['p_holm']:.2g} |")
    return "\n".join(lines) + "\n"


def _detection(metrics: dict[str, Any]) -> str:
    """AUROC of each score: mean over the sets of each source, macro with interval, and false alarms."""
    scores = [key.removeprefix("macro_auroc.") for key in metrics if key.startswith("macro_auroc.")]
    lines = [
        "| score | mistakes | adversarial | OOD | macro (95 % interval) | false alarms |",
        "|---|---|---|---|---|---|",
    ]
    for score in sorted(scores, key=lambda s: -metrics[f"macro_auroc.{s}"]):
        cells = []
        for source in SOURCES:
            values = [v for k, v in metrics.items() if k.startswith(f"auroc.{source}.") and k.endswith(f".{score}")]
            cells.append(f"{sum(values) / len(values):.3f}" if values else "–")
        low, high = metrics[f"macro_auroc_low.{score}"], metrics[f"macro_auroc_high.{score}"]
        macro = f"{metrics[f'macro_auroc.{score}']:.3f} ({low:.3f} to {high:.3f})"
        alarms = f"{100 * metrics[f'false_alarms.{score}']:.1f} %"
        lines.append(f"| {score.replace('_', '-')} | {' | '.join(cells)} | {macro} | {alarms} |")
    return "\n".join(lines) + "\n"
