"""Split the images once, into fit, val, cal and test, and store them; held-out classes by themselves."""

from pathlib import Path

from mistakes import datasets
from mistakes.artifacts import load_json, save_arrays, save_json
from mistakes.stage import Run, stage


@stage
def main(run: Run, raw: Path, out: Path) -> dict[str, int]:
    """Write out/SPLIT/{images,labels,indices}.npy for each split and for held_out (near OOD, often empty), classes.json
    and the counts; of own features {features,logits,early_1,...} instead of images.
    """
    description = load_json(raw / "dataset.json")
    section = run.params.images
    dataset, held_out = datasets.hold_out(datasets.read(description["dataset"], raw), section.held_out)
    parts = datasets.split(dataset, section.val, section.cal, section.test, section.seed)
    parts["held_out"] = held_out
    for split, part in parts.items():
        save_arrays(out / split, **part.inputs, labels=part.labels, indices=part.indices)
    save_json(out / "classes.json", dataset.classes)
    skipped = sum(len(files) for files in description.get("skipped", {}).values())
    return {f"n.{split}": len(part.labels) for split, part in parts.items()} | {"n.skipped": skipped}


if __name__ == "__main__":
    main()
