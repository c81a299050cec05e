"""Figures as SVG text, deterministic; the only module that imports matplotlib."""

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mistakes.artifacts import load_csv
from mistakes.report.titles import title

# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = {"correct": "#000000", "mistakes": "#D55E00", "adversarial": "#CC79A7", "ood": "#0072B2"}
NAMES = {
    "correct": "correct",
    "mistakes": "mistakes",
    "adversarial": "adversarial",
    "ood": "out of distribution",
}
STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mistakes",  # identifiers do not change from run to run
}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def histograms(table: pd.DataFrame, groups: dict[str, str]) -> str:
    """Draw the log-density of each group; ``groups`` gives the cause of each, and with it the
    colour.
    """
    figure, axes = _figure(7.5, 3.6)
    styles = ["-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1))]
    seen: dict[str, int] = {}
    for group, part in table.groupby("group", sort=False):
        cause = groups[str(group)]
        style = styles[seen.setdefault(cause, 0) % len(styles)]
        seen[cause] += 1
        label = (
            str(group) if cause == str(group) else f"{NAMES[cause]}: {str(group).replace('_', ' ')}"
        )
        axes.plot(
            part["log_density"],
            part["share"],
            color=COLOURS[cause],
            linestyle=style,
            label=label,
            linewidth=1.4,
        )
    axes.set(
        xlabel="log-density (nats); outermost bins hold what lies beyond",
        ylabel="share of the group",
    )
    axes.legend(fontsize=7.5, ncols=2)
    return _svg(figure)


def deciles(table: pd.DataFrame) -> str:
    """Draw the error rate in each decile of log-density, with intervals."""
    figure, axes = _figure(4.2, 3.2)
    rate = table["error_rate"].to_numpy()
    spread = np.abs(np.stack([rate - table["error_rate_low"], table["error_rate_high"] - rate]))
    axes.bar(
        table["decile"],
        100 * rate,
        yerr=100 * spread,
        color=COLOURS["mistakes"],
        capsize=3,
        ecolor="#444444",
    )
    axes.set(
        xlabel="decile of log-density, 1 = least likely",
        ylabel="error rate (%)",
        xticks=table["decile"],
    )
    return _svg(figure)


def roc(table: pd.DataFrame, score: str = "") -> str:
    """Draw the ROC curve of a score, named in the title, for each cause of failure."""
    figure, axes = _figure(4.2, 3.2)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for cause, part in table.groupby("cause", sort=False):
        axes.plot(part["fpr"], part["tpr"], color=COLOURS[str(cause)], label=NAMES[str(cause)])
    axes.set(
        xlabel="share of correct images flagged", ylabel="share of failures flagged", aspect="equal"
    )
    axes.set_title(score, fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    return _svg(figure)


def heat(table: pd.DataFrame) -> str:
    """Draw AUROC of each score on each cause, the mean over its sets; scores by their mean."""
    wide = table.pivot(index="score", columns="cause", values="auroc")
    wide = wide[[cause for cause in NAMES if cause in wide.columns]]
    wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False).index]
    figure, axes = _figure(5.4, 0.6 + 0.3 * len(wide))
    axes.imshow(wide.to_numpy(), cmap="cividis", vmin=0.5, vmax=1, aspect="auto")
    axes.set_xticks(range(wide.shape[1]), [NAMES[str(cause)] for cause in wide.columns])
    axes.set_yticks(range(len(wide)), [title(str(score)) for score in wide.index])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for (row, column), value in np.ndenumerate(wide.to_numpy()):
        colour = "black" if value > 0.8 else "white"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=9)
    return _svg(figure)


def differences(table: pd.DataFrame, score: str) -> str:
    """Draw AUROC of ``score`` minus that of MSP and of the best baseline on each set, with
    intervals.
    """
    mine = table[(table["score"] == score) & (table["against"] != score)]
    rows = list(dict.fromkeys(zip(mine["cause"], mine["set"], strict=True)))
    place = {row: -number for number, row in enumerate(rows)}
    figure, axes = _figure(6.6, 0.8 + 0.27 * len(rows))
    axes.axvline(0, color="#888888", linewidth=0.8)
    styles = ((0.14, "o", "#0072B2"), (-0.14, "s", "#D55E00"))
    for (lift, marker, colour), (against, part) in zip(
        styles, mine.groupby("against", sort=False), strict=False
    ):
        y = [place[row] + lift for row in zip(part["cause"], part["set"], strict=True)]
        spread = [part["difference"] - part["low"], part["high"] - part["difference"]]
        label = f"minus {title(str(against))}"
        axes.errorbar(
            part["difference"], y, xerr=spread, fmt=marker, markersize=4, color=colour, label=label
        )
    labels = ["macro" if cause == "macro" else title(name) for cause, name in rows]
    axes.set_yticks(list(place.values()), labels)
    axes.set(xlabel=f"AUROC of {title(score)} minus that of the other score")
    axes.legend(fontsize=8)
    return _svg(figure)


def shift(table: pd.DataFrame, score: str) -> str:
    """Draw error rate, flagged share and error rate of what is not flagged, by kind of corruption
    and severity.
    """
    mine = table[table["score"] == score]
    clean = mine[mine["kind"] == "clean"]
    kinds = [kind for kind in mine["kind"].unique() if kind != "clean"]
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(
            2,
            -(-max(len(kinds), 1) // 2),
            figsize=(9, 4.4),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
    for axes, kind in zip(grid.flat, kinds, strict=False):
        part = pd.concat([clean, mine[mine["kind"] == kind]]).sort_values("severity")
        axes.plot(
            part["severity"],
            100 * part["error_rate"],
            color=COLOURS["mistakes"],
            label="error rate",
        )
        axes.plot(
            part["severity"],
            100 * part["flagged"],
            color=COLOURS["ood"],
            linestyle="--",
            label="flagged",
        )
        left = 100 * (1 - part["accuracy_unflagged"])
        axes.plot(
            part["severity"],
            left,
            color=COLOURS["correct"],
            linestyle=":",
            label="error rate of the unflagged",
        )
        axes.set(title=kind.replace("_", " "), xlabel="severity", ylim=(0, 100))
    for axes in grid[:, 0]:
        axes.set_ylabel("%")
    for axes in grid.flat[len(kinds) :]:
        axes.set_visible(False)
    if kinds:
        grid[0, 0].legend(fontsize=7.5)
    return _svg(figure)


# python -m mistakes.report.plots data/detection/NAME/deciles.csv > docs/error-rate.svg
def figures(tables: Mapping[str, str]) -> dict[str, str]:
    """Return the figures that a row of MLflow shows, SVG by name.

    tables : CSV texts of stage detection, by table; without one, or without a row in it, there is
    no figure of it.
    """
    draw: dict[str, Callable[[pd.DataFrame], str]] = {
        "deciles": deciles,
        "heat": heat,
        "roc": lambda table: roc(table[table["score"] == "guard"], "the guard"),
    }
    read = {name: pd.read_csv(io.StringIO(tables[name])) for name in draw if name in tables}
    return {name: draw[name](table) for name, table in read.items() if len(table)}


if __name__ == "__main__":
    sys.stdout.write(deciles(load_csv(Path(sys.argv[1]))))
