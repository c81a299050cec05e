"""Split the images once, into fit, val, cal and test, and store them; held-out classes by
themselves.
"""

from pathlib import Path

from mistakes.artifacts import load_json, save_arrays, save_json
from mistakes.data import custom_images, datasets, duplicates, splitting
from mistakes.data.datasets import Labelled
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, raw: Path, out: Path) -> dict[str, int]:
    """Write out/SPLIT/{images,labels,indices}.npy for each split, classes.json and the counts.

    A split of its own are the novel_classes (near OOD, often empty). Of custom features it writes
    {features,logits,early_1,...} instead of images; groups.npy where there are groups.
    """
    description = load_json(raw / "dataset.json")
    section = run.params.images
    dataset, novel_classes = datasets.hold_out(
        datasets.read(description["dataset"], raw), section.novel_classes
    )
    parts = datasets.split(dataset, section.val, section.cal, section.test, section.seed)
    few = splitting.few({split: part.labels for split, part in parts.items()}, dataset.classes)
    parts["novel_classes"] = novel_classes
    for split, part in parts.items():
        groups = {} if part.groups is None else {"groups": part.groups}
        save_arrays(out / split, **part.inputs, labels=part.labels, indices=part.indices, **groups)
    save_json(out / "classes.json", dataset.classes)
    for sentence in [*description.get("warnings", []), *few, *_twice(raw, description, parts)]:
        run.warn(sentence)
    skipped = sum(len(files) for files in description.get("skipped", {}).values())
    return {f"n.{split}": len(part.labels) for split, part in parts.items()} | {
        "n.skipped": skipped
    }


def _twice(raw: Path, description: dict[str, object], parts: dict[str, Labelled]) -> list[str]:
    """Look for duplicates in own data; published ones are taken as they were published."""
    if "parts" not in description:
        return []
    table = custom_images.files(raw)
    return duplicates.between(
        parts, lambda index: f"row {index}" if table is None else table["file"][index]
    )


if __name__ == "__main__":
    main()
