"""Put a map of the inputs, slices and the costs of alpha on one page that opens in a browser."""

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mistakes.artifacts import Array, load_arrays, load_json, save_csv, save_text
from mistakes.data import custom_images, features, precomputed
from mistakes.evaluation import score_table, slices
from mistakes.pipeline.runner import Run, stage
from mistakes.report import explore


def tested(raw: Path, data: Path) -> tuple[list[str], pd.DataFrame]:
    """Return the names of the test inputs, and what is known of them beside their class: of own
    images the folder below that of the class, and the group.
    """
    (indices,) = load_arrays(data / "test", "indices")
    files = custom_images.files(raw)
    if files is None:
        return [f"row {i}" for i in indices], pd.DataFrame()
    names = files["file"].iloc[indices].tolist()
    folders = ["/".join(PurePosixPath(name).parent.parts[1:]) for name in names]
    beside = files.drop(columns=["file", "sha256"]).iloc[indices].reset_index(drop=True)
    return names, beside.assign(folder=folders)


@stage
def main(
    run: Run,
    raw: Path,
    data: Path,
    stored: Path,
    scores: Path,
    adversarial: Path,
    ood: Path,
    out: Path,
) -> None:
    """Write out/explore.html, with every classifier of params.yaml, out/NAME_slices.csv, and
    out/NAME_members.csv: which inputs are in which slice, by their files where there are files.

    Clusters are those of the mistakes on val; test inputs are looked up in them.
    """
    section, alpha = run.params.explore, run.params.detection.alpha
    level = run.params.detection.confidence_level
    names = load_json(data / "classes.json")
    inputs, beside = tested(raw, data)
    has_images = not precomputed.outputs_in(data / "test")
    explored = []
    for name in run.params.classifiers:
        table = score_table.load(scores / name / "scores.parquet")
        test = score_table.test(table)
        flagged = score_table.flagged(test, "guard", alpha)
        z = {split: features.load(stored / name / split) for split in ("fit", "val", "test")}
        (truth,) = load_arrays(stored / name / "val", "labels")
        mistakes = z["val"].features[z["val"].logits.argmax(1) != truth]
        found = slices.of_classes(test["prediction"].to_numpy(), test["label"].to_numpy(), names)
        found += slices.of_clusters(
            mistakes, z["test"].features, clusters=section.clusters, seed=section.seed
        )
        found += slices.of_columns(beside)
        rows = slices.table(
            found,
            correct=test["correct"].to_numpy(),
            nll=test["nll"].to_numpy(),
            flagged=flagged,
            confidence_level=level,
        )
        save_csv(out / f"{name}_slices.csv", rows)
        save_csv(out / f"{name}_members.csv", slices.members(found, test, inputs))
        asked = np.flatnonzero(flagged)
        near = slices.nearest(z["fit"].features, z["test"].features[asked], section.neighbours)

        def images(origin: str, one: str, name: str = name) -> Array | None:
            folders = {"id": data / "test", "fit": data / "fit", "ood": ood / one}
            folders |= {"adversarial": adversarial / name / "sets" / one}
            folder = data / one if one == "novel_classes" else folders[origin]
            return load_arrays(folder, "images")[0] if has_images else None

        explored.append(
            explore.Explored(
                name=name,
                scores=table.assign(confidence=-table["msp"]),
                table=rows,
                slices={f"{one.kind}: {one.name}": one.rows for one in found},
                neighbours=dict(zip(asked.tolist(), near, strict=True)),
                images=images,
            )
        )
    page = explore.render(explored, names, alpha, level)
    save_text(out / "explore.html", page)


if __name__ == "__main__":
    main()
