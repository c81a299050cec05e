"""Figures as SVG text, deterministic; the only module that imports matplotlib."""

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = {"correct": "#000000", "mistakes": "#D55E00", "adversarial": "#CC79A7", "ood": "#0072B2"}
NAMES = {"correct": "correct", "mistakes": "mistakes", "adversarial": "adversarial", "ood": "out of distribution"}
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
    """Draw the log-density of each group; ``groups`` gives the source of each, and with it the colour."""
    figure, axes = _figure(7.5, 3.6)
    styles = ["-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1))]
    seen: dict[str, int] = {}
    for group, part in table.groupby("group", sort=False):
        source = groups[str(group)]
        style = styles[seen.setdefault(source, 0) % len(styles)]
        seen[source] += 1
        label = str(group) if source == str(group) else f"{NAMES[source]}: {str(group).replace('_', ' ')}"
        axes.plot(
            part["log_density"], part["share"], color=COLOURS[source], linestyle=style, label=label, linewidth=1.4
        )
    axes.set(xlabel="log-density (nats); outermost bins hold what lies beyond", ylabel="share of the group")
    axes.legend(fontsize=7.5, ncols=2)
    return _svg(figure)


def deciles(table: pd.DataFrame) -> str:
    """Draw the error rate in each decile of log-density, with intervals."""
    figure, axes = _figure(4.2, 3.2)
    rate = table["error_rate"].to_numpy()
    spread = np.abs(np.stack([rate - table["error_rate_low"], table["error_rate_high"] - rate]))
    axes.bar(table["decile"], 100 * rate, yerr=100 * spread, color=COLOURS["mistakes"], capsize=3, ecolor="#444444")
    axes.set(xlabel="decile of log-density, 1 = least likely", ylabel="error rate (%)", xticks=table["decile"])
    return _svg(figure)


def roc(table: pd.DataFrame) -> str:
    """Draw the ROC curve of the log-density for each source of failure."""
    figure, axes = _figure(4.2, 3.2)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for source, part in table.groupby("source", sort=False):
        axes.plot(part["fpr"], part["tpr"], color=COLOURS[str(source)], label=NAMES[str(source)])
    axes.set(xlabel="share of correct images flagged", ylabel="share of failures flagged", aspect="equal")
    axes.legend(fontsize=8, loc="lower right")
    return _svg(figure)
