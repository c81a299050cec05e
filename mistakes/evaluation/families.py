"""Families of hypothesis tests: p-values corrected over each, power, and the table to read."""

from dataclasses import asdict

import pandas as pd

from mistakes.evaluation.hypotheses import Result
from mistakes.statistics import effect_sizes


def adjusted(results: list[Result], alpha: float, smallest_a12: float) -> pd.DataFrame:
    """Return a row per result with what follows from it and from its family; no row of no results.

    p_holm and p_bh: Holm and Benjamini-Hochberg over the family. cliffs_delta: 2 A12 - 1, with its
    interval. power: of the Mann-Whitney test against A12 = ``smallest_a12`` at the family's
    Bonferroni level, ``alpha`` over its size; a12_detectable: the smallest A12 with a power of 80
    %. Columns without meaning hold None.
    """
    from statsmodels.stats.multitest import multipletests

    if not results:
        return pd.DataFrame()
    table = pd.DataFrame([asdict(result) for result in results])
    for method, column in (("holm", "p_holm"), ("fdr_bh", "p_bh")):
        table[column] = table.groupby("family")["p"].transform(
            lambda p, m=method: multipletests(p, method=m)[1]
        )
    for bound in ("", "_low", "_high"):
        table[f"cliffs_delta{bound}"] = 2 * table[f"a12{bound}"] - 1
    levels = alpha / table.groupby("family")["p"].transform("size")
    known = [(result.a12_null_sd, level) for result, level in zip(results, levels, strict=True)]
    table["power"] = [sd and effect_sizes.power(smallest_a12, sd, level) for sd, level in known]
    table["a12_detectable"] = [sd and effect_sizes.detectable_a12(sd, level) for sd, level in known]
    return table.astype(object).where(table.notna(), None)


def markdown(table: pd.DataFrame) -> str:
    """Return the results as a Markdown table: effect sizes first, p after."""
    lines = [
        (
            "| hypothesis | failures | n | log-density lower by (nats, mean) | Hodges-Lehmann"
            " (nats) | A12 | Cliff's delta | odds ratio | power | p | p (Holm) | p (BH) | second"
            " test, p |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        cells = [row["hypothesis"], row["set"], row["n"], f"{row['difference']:.2f}"]
        for column, digits in (
            ("hodges_lehmann", 2),
            ("a12", 3),
            ("cliffs_delta", 3),
            ("odds_ratio", 2),
        ):
            cells.append(interval(row[column], row[f"{column}_low"], row[f"{column}_high"], digits))
        cells += [
            number(row["power"], ".3f"),
            *(f"{row[column]:.2g}" for column in ("p", "p_holm", "p_bh")),
        ]
        cells.append(f"{row['second_test'].replace('_', ' ')}, {row['p_second']:.2g}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or a dash for None.

    Examples
    --------
    >>> number(0.123, ".2f"), number(None, ".2f")
    ('0.12', '–')
    """
    return "–" if value is None else f"{value:{form}}"


def interval(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    """Return "value (low to high)", or a dash where there is no value.

    Examples
    --------
    >>> interval(0.5, 0.4, 0.6, 2)
    '0.50 (0.40 to 0.60)'
    """
    form = f".{digits}f"
    return "–" if value is None else f"{value:{form}} ({number(low, form)} to {number(high, form)})"
