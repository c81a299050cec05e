"""The page to explore: a map of the test inputs, slices, costs of alpha, and likely label errors.

It is one file that opens without a network: Plotly, tables and small images are inside. What
the budget leaves out is drawn evenly and stated on the page.
"""

import base64
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from mistakes.artifacts import Array
from mistakes.evaluation import slices
from mistakes.report.titles import title
from mistakes.statistics import intervals

MOST = {"test": 10_000, "adversarial": 250, "ood": 300}  # points drawn of one set
SIDE = 32  # pixels of the longer side of a small image, at most
COLUMNS = 128  # small images in a row of a sprite
NEIGHBOURS = 3
EXAMPLES = 6
LABEL_ERRORS = 60
ALPHAS = np.round(np.geomspace(0.001, 0.5, 60), 4)  # steps of the slider
_SHORT = {"x": 3, "y": 3, "nll": 2, "p": 5, "confidence": 4}  # digits that a reader can use

Images = Callable[[str, str], Array | None]  # (origin, set) to uint8 (n, c, h, w)


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What the page shows of one classifier.

    scores : the score table with ``map_1`` and ``map_2``, the first coordinates that the flow sees,
    ``confidence``, and ``reason``, the guard's part that is most surprised.
    table, slices : rows of the slices, and what is in them, by name.
    neighbours : rows of fit nearest to flagged test inputs, int64 (m,), by test row.
    images : the images of an origin and a set; None where there are none.
    """

    name: str
    scores: pd.DataFrame
    table: pd.DataFrame
    slices: dict[str, Array]
    neighbours: dict[int, Array]
    images: Images = field(repr=False)


def costs(scores: pd.DataFrame, confidence_level: float) -> dict[str, list[Any]]:
    """Return what each alpha of ALPHAS costs and brings, with Clopper and Pearson's intervals.

    Each entry is (rate, low, high) in a list as long as ALPHAS: ``false alarms`` among correct test
    inputs; ``mistakes``, ``attacks`` and ``OOD inputs`` caught; ``coverage``, the test inputs that
    are accepted; ``error``, the mistakes among those.
    """
    test = scores[scores["origin"] == "id"]
    correct = test["correct"].to_numpy()
    attacks = (scores["origin"] == "adversarial") & ~scores["correct"]
    groups = {
        "false alarms": test["p_guard"].to_numpy()[correct],
        "mistakes": test["p_guard"].to_numpy()[~correct],
        "attacks": scores.loc[attacks, "p_guard"].to_numpy(),
        "OOD inputs": scores.loc[scores["origin"] == "ood", "p_guard"].to_numpy(),
    }
    found = {
        name: [_rate(p <= alpha, confidence_level) for alpha in ALPHAS]
        for name, p in groups.items()
        if len(p)
    }
    p = test["p_guard"].to_numpy()
    accepted = [p > alpha for alpha in ALPHAS]
    found["coverage"] = [_rate(a, confidence_level) for a in accepted]
    found["error"] = [_rate(~correct[a], confidence_level) for a in accepted]
    return found


def _rate(hits: Array, confidence_level: float) -> list[float] | None:
    if not len(hits):
        return None
    return [round(value, 5) for value in intervals.proportion(hits, confidence_level)]


def sprite(images: Array) -> dict[str, Any]:
    """Return uint8 images (n, c, h, w) as small ones in the grid of one WebP picture.

    Examples
    --------
    >>> found = sprite(np.zeros((3, 1, 64, 32), np.uint8))
    >>> found["height"], found["width"], found["columns"], found["uri"][:23]
    (32, 16, 128, 'data:image/webp;base64,')
    """
    n, channels, height, width = images.shape
    scale = min(1.0, SIDE / max(height, width))
    small = max(1, round(height * scale)), max(1, round(width * scale))
    mode = "L" if channels == 1 else "RGB"
    rows = -(-n // COLUMNS)
    grid = Image.new(mode, (min(n, COLUMNS) * small[1], rows * small[0]))
    for i, image in enumerate(images):
        pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)
        one = Image.fromarray(np.ascontiguousarray(pixels))
        if scale < 1:
            one = one.resize((small[1], small[0]), Image.Resampling.BOX)
        grid.paste(one, (i % COLUMNS * small[1], i // COLUMNS * small[0]))
    data = io.BytesIO()
    grid.save(data, format="WEBP", quality=50)
    uri = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
    return {"uri": uri, "columns": COLUMNS, "height": small[0], "width": small[1]}


def drawn(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the page draws: test inputs, successful attacks, OOD inputs.

    Of a set that has more than MOST rows, mistakes first, the others evenly by position.
    """
    attacks = (scores["origin"] == "adversarial") & ~scores["correct"]
    shown = scores[scores["origin"].isin(["id", "ood"]) | attacks]
    parts = []
    for (origin, _), part in shown.groupby(["origin", "set"], sort=False):
        most = MOST["test" if origin == "id" else origin]
        if len(part) > most:
            first = part[~part["correct"]] if origin == "id" else part.iloc[:0]
            rest = part.drop(first.index)
            keep = np.linspace(0, len(rest) - 1, max(0, most - len(first))).astype(int)
            part = pd.concat([first.iloc[:most], rest.iloc[keep]]).sort_index()
        parts.append(part)
    return pd.concat(parts)


def payload(one: Explored, confidence_level: float, alpha: float) -> dict[str, Any]:
    """Return what the page's script reads of one classifier, as JSON can hold it."""
    scores = one.scores.assign(position=one.scores.groupby(["origin", "set"]).cumcount())
    points = drawn(scores)
    totals = scores.groupby(["origin", "set"], sort=False).size()
    sets, thumbs, numbers = [], [], np.zeros(len(points), int)
    groups = points.groupby(["origin", "set"], sort=False)
    for i, ((origin, name), part) in enumerate(groups):
        at = points.index.get_indexer(part.index)
        numbers[at] = i
        pixels = one.images(origin, name)
        sets.append(
            {
                "name": title(name) if origin != "id" else "test",
                "cause": origin,
                "shown": len(part),
                "n": int(totals[origin, name]),
                "sprite": None if pixels is None else sprite(pixels[part["position"].to_numpy()]),
            }
        )
        thumbs.append(np.arange(len(part)))
    test = np.flatnonzero((points["origin"] == "id").to_numpy())
    of_row = dict(zip(points["index"].to_numpy()[test].tolist(), test.tolist(), strict=True))
    data, reasons = _columns(points, numbers, np.concatenate(thumbs))
    whole = scores[scores["origin"] == "id"].set_index("index")
    suspects = slices.label_errors(
        whole["correct"].to_numpy(),
        whole["nll"].to_numpy(),
        whole["confidence"].to_numpy(),
        LABEL_ERRORS,
    )
    known, near = _neighbours(one, alpha, whole)
    return {
        "name": one.name,
        "points": data,
        "sets": sets,
        "reasons": reasons,
        "slices": _slices(one, whole, of_row),
        "costs": costs(scores, confidence_level),
        "label_errors": [of_row[row] for row in whole.index[suspects].tolist() if row in of_row],
        "neighbours": {str(of_row[row]): ids for row, ids in near.items() if row in of_row},
        "known": known,
        "n_test": len(whole),
        "n_mistakes": int((~whole["correct"]).sum()),
    }


def _columns(
    points: pd.DataFrame, numbers: Array, thumbs: Array
) -> tuple[dict[str, Any], list[str]]:
    """Return what the script reads of each point, by column, and the names of the reasons."""
    columns = {
        "x": points["map_1"],
        "y": points["map_2"],
        "nll": points["nll"],
        "p": points["p_guard"],
        "confidence": points["confidence"],
    }
    reasons: list[str] = sorted(points["reason"].unique())
    data: dict[str, Any] = {
        key: np.round(values.to_numpy(np.float64), _SHORT[key]).tolist()
        for key, values in columns.items()
    }
    data |= {key: points[key].tolist() for key in ("label", "prediction")}
    data |= {"row": points["index"].tolist(), "correct": points["correct"].astype(int).tolist()}
    data |= {"set": numbers.tolist(), "thumb": thumbs.tolist()}
    data["reason"] = [reasons.index(reason) for reason in points["reason"]]
    return data, reasons


def _slices(one: Explored, test: pd.DataFrame, of_row: dict[int, int]) -> list[dict[str, Any]]:
    found = []
    for row in one.table.to_dict("records"):
        inside = test.loc[one.slices[f"{row['kind']}: {row['name']}"]]
        wrong = inside[~inside["correct"]].sort_values("nll", ascending=False).index
        rows = [of_row[i] for i in wrong if i in of_row]
        numbers = {
            k: round(v, 6) if isinstance(v, float) and v > 1e-3 else v for k, v in row.items()
        }
        found.append(numbers | {"mistakes": rows, "examples": rows[:EXAMPLES]})
    return found


def _neighbours(
    one: Explored, alpha: float, test: pd.DataFrame
) -> tuple[dict[str, Any] | None, dict[int, list[int]]]:
    """Return the sprite of the nearest training inputs, and their places in it by test row."""
    near = {row: rows[:NEIGHBOURS] for row, rows in one.neighbours.items()}
    pixels = one.images("fit", "fit")
    if not near or pixels is None:
        return None, {}
    rows = np.unique(np.concatenate(list(near.values())))
    place = {int(row): i for i, row in enumerate(rows)}
    return sprite(pixels[rows]), {
        row: [place[int(other)] for other in others] for row, others in near.items()
    }


def render(
    explored: list[Explored], classes: list[str], alpha: float, confidence_level: float
) -> str:
    """Return the page as HTML; it does not depend on time or host."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    here = files("mistakes.report")
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    template = environment.from_string(here.joinpath("explore.html.j2").read_text())
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return template.render(
        data={
            "classes": classes,
            "alpha": alpha,
            "alphas": ALPHAS.tolist(),
            "confidence_level": confidence_level,
            "classifiers": [payload(one, confidence_level, alpha) for one in explored],
        },
        plotly=base64.b64encode(gzip.compress(script, mtime=0)).decode(),
        code=here.joinpath("explore.js").read_text(),
    )
