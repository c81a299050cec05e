"""Put the evidence for every classifier of params.yaml on one HTML page."""

from pathlib import Path

import numpy as np

from mistakes.artifacts import load_arrays, load_csv, load_json, save_text
from mistakes.data import precomputed
from mistakes.evaluation import comparison, score_table
from mistakes.evaluation.detection import Settings
from mistakes.pipeline.runner import Run, stage
from mistakes.report import page


def compared(
    evidence: list[page.Evidence], together: list[tuple[str, ...]], run: Run
) -> comparison.Comparison:
    """Return what several classifiers show side by side."""
    section = run.params.detection
    settings = Settings(section.alpha, section.bootstrap, section.confidence_level, section.seed)
    scores, macros, hypotheses = (
        {one.name: of(one) for one in evidence}
        for of in (lambda e: e.scores, lambda e: e.tables["macro"], lambda e: e.hypotheses)
    )
    return comparison.compare(scores, macros, hypotheses, together, settings)


@stage
def main(
    run: Run,
    test: Path,
    classes: Path,
    images: Path,
    ood: Path,
    classifier: Path,
    flow: Path,
    detectors: Path,
    adversarial: Path,
    scores: Path,
    adaptive: Path,
    hypotheses: Path,
    detection: Path,
    guard: Path,
    explore: Path,
    out: Path,
) -> None:
    """Write out/report.html; classifiers that params.yaml does not name are left out."""
    stages = (
        classifier,
        flow,
        detectors,
        adversarial,
        scores,
        adaptive,
        hypotheses,
        detection,
        guard,
    )
    evidence = [
        page.Evidence(
            name,
            score_table.load(scores / name / "scores.parquet"),
            load_json(scores / name / "metrics.json"),
            load_json(flow / name / "metrics.json"),
            load_json(guard / name / "metrics.json"),
            load_json(hypotheses / name / "hypotheses.json"),
            load_json(hypotheses / name / "controls.json"),
            load_csv(adaptive / name / "adaptive.csv"),
            {table: load_csv(detection / name / f"{table}.csv") for table in page.TABLES},
            [
                sentence
                for folder in stages
                for sentence in load_json(folder / name / "warnings.json")
            ],
            load_json(detectors / name / "applicability.json"),
            load_csv(detectors / name / "shares.csv"),
        )
        for name in run.params.classifiers
    ]
    (indices,) = load_arrays(test, "indices")
    pixels = None if precomputed.outputs_in(test) else np.asarray(load_arrays(test, "images")[0])
    warnings = [*load_json(images), *load_json(ood)]
    inputs = page.Inputs(pixels, indices, load_json(classes), warnings)
    entries = {name: entry.model_dump() for name, entry in run.params.classifiers.items()}
    text = page.render(
        evidence,
        inputs,
        run.params.detection,
        run.params.hypotheses,
        gallery=run.params.report.gallery,
        explore=f"../{explore.name}/explore.html",
        comparison=(
            compared(evidence, comparison.groups(entries), run) if len(evidence) > 1 else None
        ),
    )
    save_text(out / "report.html", text)


if __name__ == "__main__":
    main()
