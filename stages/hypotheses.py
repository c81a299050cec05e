"""Test the registered hypotheses on the log-density."""

from pathlib import Path

import pandas as pd

from mistakes import detection, hypotheses
from mistakes.artifacts import load_table, save_json, save_text
from mistakes.stage import Run, stage


def sample(failures: pd.DataFrame, table: pd.DataFrame, paired: bool) -> hypotheses.Sample:
    """Return failures and what they are compared with: the clean originals of each, or all successes."""
    reference = detection.successes(table)
    if paired:
        reference = reference.set_index("index").loc[failures["index"]]
    return hypotheses.Sample(
        failures["log_density"].to_numpy(), reference["log_density"].to_numpy(),
        failures["prediction"].to_numpy(), reference["prediction"].to_numpy(),
    )  # fmt: skip


@stage
def main(run: Run, scores: Path, out: Path) -> dict[str, float]:
    """Write out/hypotheses.json and out/hypotheses.md, a row per hypothesis and set."""
    section = run.params.hypotheses
    table = load_table(scores)
    settings = hypotheses.Settings(section.resamples, section.bootstrap, section.confidence, section.seed)
    results = []
    for (source, name), failures in detection.sets(table).items():
        for hypothesis, registered in section.registered.items():
            if registered.failure != source:
                continue
            compared = sample(failures, table, registered.test == "permutation_paired")
            results.append(
                hypotheses.test(hypothesis, name, registered.family, registered.test, compared, settings)
            )  # fmt: skip
    rows = hypotheses.adjusted(results)
    save_json(out / "hypotheses.json", rows.astype(object).where(rows.notna(), None).to_dict("records"))
    save_text(out / "hypotheses.md", hypotheses.markdown(rows))
    columns = ("p", "p_holm", "a12", "a12_low", "a12_high", "n")
    return {f"{row['hypothesis']}.{row['set']}.{c}": row[c] for row in rows.to_dict("records") for c in columns}


if __name__ == "__main__":
    main()
