"""Draw the out-of-distribution sets, or take them from other data sets, once."""

from pathlib import Path

from mistakes import formats
from mistakes import ood as sets
from mistakes.artifacts import load_arrays, load_json, save_arrays
from mistakes.errors import InputError
from mistakes.stage import Run, stage


@stage
def main(run: Run, test: Path, raw: Path, out: Path) -> dict[str, int]:
    """Write out/sets/SET/images.npy."""
    section = run.params.ood
    dataset = load_json(raw / "dataset.json")["dataset"]
    if dataset in section.sets:
        raise InputError("params.yaml", "ood.sets", dataset, "sets that are not the in-distribution data set itself")
    (images,) = load_arrays(test, "images")
    metrics = {}
    for name in section.sets:
        foreign = raw / "ood" / name
        if foreign.is_dir():
            theirs = formats.read(name, foreign, "test")[0]
            drawn = sets.resembling(name, theirs, images, section.images, section.seed)
        else:
            drawn = sets.draw(name, images, section.images, section.patch, section.seed)
        save_arrays(out / "sets" / name, images=drawn)
        metrics[f"n.{name}"] = len(drawn)
    return metrics


if __name__ == "__main__":
    main()
