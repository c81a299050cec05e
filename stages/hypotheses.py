"""Test the registered hypotheses on the log-density, and run the negative controls."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from mistakes import progress
from mistakes.artifacts import save_json, save_text
from mistakes.errors import InputError
from mistakes.evaluation import families, hypotheses, negative_controls, score_table
from mistakes.evaluation.hypotheses import Group, Sample
from mistakes.pipeline.runner import Run, stage


def group(part: pd.DataFrame) -> Group:
    """Return one side of a comparison."""
    return Group(*(part[column].to_numpy() for column in ("nll", "prediction", "msp")))


def sample(failures: pd.DataFrame, successes: pd.DataFrame, paired: bool) -> Sample:
    """Return failures and what they are compared with: the clean originals of each, or all
    successes.
    """
    reference = successes.set_index("index").loc[failures["index"]] if paired else successes
    return Sample(group(failures), group(reference))


@stage
def main(run: Run, scores: Path, out: Path) -> dict[str, float]:
    """Write hypotheses.json, a row per hypothesis and set, controls.json, a row per control, and
    both in Markdown.

    Metrics: of each hypothesis the mean A12 of its sets, and the largest of their p-values.
    """
    section = run.params.hypotheses
    table = score_table.load(scores)
    successes, mistakes = (
        score_table.successes(table),
        table[(table["origin"] == "id") & ~table["correct"]],
    )
    train = table[(table["origin"] == "fit") & table["correct"]]
    if len(successes) < hypotheses.MIN_MEMBERS or "fit" not in set(table["origin"]):
        found = ", ".join(table["origin"].unique())
        raise InputError(
            scores, "column origin", found, "correctly classified images of id, and images of fit"
        )
    settings = hypotheses.Settings(
        section.resamples, section.bootstrap, section.confidence_level, section.bins, section.seed
    )
    results = []
    for hypothesis, registered in progress.bar(section.registered.items(), "hypotheses"):
        for (cause, name), part in score_table.failures(table).items():
            if cause == registered.failure:
                compared = sample(part, successes, registered.test == "permutation_paired")
                results.append(
                    hypotheses.test(
                        hypothesis, name, registered.family, registered.test, compared, settings
                    )
                )
    rows = families.adjusted(results, section.alpha, section.smallest_a12)
    checked = negative_controls.run_all(
        sample(mistakes, successes, False),
        train["nll"].to_numpy(),
        negative_controls.Settings(
            **section.controls.model_dump(), bootstrap=section.bootstrap, seed=section.seed
        ),
    )
    save_json(out / "hypotheses.json", rows.to_dict("records"))
    save_json(out / "controls.json", [asdict(control) for control in checked])
    save_text(
        out / "hypotheses.md",
        f"{families.markdown(rows)}\nNegative controls\n\n{negative_controls.markdown(checked)}",
    )
    main_family = rows[rows["family"] != "former"] if len(rows) else rows
    by_hypothesis = main_family.groupby("hypothesis") if len(rows) else []
    return {
        f"{name}.{key}": float(value)
        for name, of in by_hypothesis
        for key, value in (("a12", of["a12"].mean()), ("p_holm", of["p_holm"].max()))
    }


if __name__ == "__main__":
    main()
