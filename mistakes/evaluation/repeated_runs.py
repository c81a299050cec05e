"""Several runs of one classifier: what a score does on average, with an interval over seeds
and images.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mistakes.evaluation import detection, score_table
from mistakes.evaluation.detection import Settings
from mistakes.evaluation.score_table import CAUSES
from mistakes.statistics import intervals

# and their titles
COLUMNS = {
    "mistakes": "mistakes",
    "adversarial": "adversarial",
    "ood": "OOD",
    "macro": "macro",
}


def columns_of(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the causes of failure that every training has, and ``macro``, their mean."""
    found = [{cause for cause, _ in score_table.evaluated(table)} for table in tables.values()]
    return [*(cause for cause in CAUSES if all(cause in of for of in found)), "macro"]


def across(
    tables: Mapping[str, pd.DataFrame], scores: tuple[str, ...], settings: Settings
) -> pd.DataFrame:
    """Return a row per score: mean AUROC over runs of each cause and ``macro``, with _low,
    _high and _sd.

    tables : the score table of each run. The intervals resample runs and images (a
    crossed percentile bootstrap: one resample of images holds for all runs, which are judged
    on the same ones); with three runs they cannot show more spread than the three have. _sd is
    the standard deviation over runs (n - 1). Also false_alarms, the mean share of correct test
    images flagged at alpha. Scores that a training lacks, such as a baseline that did not apply,
    are left out.
    """
    scores = tuple(
        score for score in scores if all(score in table.columns for table in tables.values())
    )
    plain: dict[str, list[dict[str, float]]] = {score: [] for score in scores}
    resampled: dict[str, list[np.ndarray]] = {score: [] for score in scores}
    columns = columns_of(tables)
    for table in tables.values():
        found = detection.evaluate(table, scores, settings)
        reference = score_table.successes(table)
        for of_macro in found.macro.to_dict("records"):
            score = of_macro["score"]
            alarms = float((reference[f"p_{score}"] <= settings.alpha).mean())
            values = {cause: of_macro[f"auroc_{cause}"] for cause in columns[:-1]}
            plain[score].append(values | {"macro": of_macro["macro_auroc"], "false_alarms": alarms})
            resampled[score].append(
                np.stack([found.resampled[score][column] for column in columns])
            )
    # the same runs are drawn for every score: differences between rows are paired
    rng = np.random.default_rng(settings.seed)
    drawn = rng.integers(0, len(tables), (len(tables), settings.bootstrap))
    rows = []
    for score in scores:
        values = pd.DataFrame(plain[score])
        of_images = np.stack(resampled[score])  # (runs, columns, bootstrap)
        # (bootstrap, columns)
        replicates = of_images[drawn, :, np.arange(settings.bootstrap)].mean(0)
        row: dict[str, object] = {"score": score, "false_alarms": values["false_alarms"].mean()}
        for position, column in enumerate(columns):
            low, high = intervals.percentile(replicates[:, position], settings.confidence_level)
            row |= {
                column: values[column].mean(),
                f"{column}_low": low,
                f"{column}_high": high,
                f"{column}_sd": values[column].std(ddof=1) if len(tables) > 1 else np.nan,
            }
        rows.append(row)
    return pd.DataFrame(rows).sort_values("macro", ascending=False, ignore_index=True)


def markdown(table: pd.DataFrame, runs: int, confidence_level: float) -> str:
    """Return what across found as a Markdown table."""
    first, *others = columns = [column for column in COLUMNS if column in table]
    titles = [
        f"{COLUMNS[first]} ({100 * confidence_level:g} % interval)",
        *(COLUMNS[column] for column in others),
    ]
    last = f"SD of macro over {runs} runs | false alarms"
    lines = [f"| score | {' | '.join(titles)} | {last} |", f"|{'---|' * (len(columns) + 3)}"]
    for row in table.to_dict("records"):
        cells = [
            f"{row[c]:.3f} ({row[f'{c}_low']:.3f} to {row[f'{c}_high']:.3f})"
            if np.isfinite(row[c])
            else "–"
            for c in columns
        ]
        spread = f"{row['macro_sd']:.3f}" if np.isfinite(row["macro_sd"]) else "–"
        last = f"{spread} | {100 * row['false_alarms']:.1f} %"
        lines.append(f"| {score_table.named(row['score'])} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines) + "\n"
