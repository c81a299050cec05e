"""Draw the out-of-distribution sets, or take them from other data sets, once."""

from pathlib import Path

from mistakes import formats, given
from mistakes import ood as sets
from mistakes.artifacts import load_arrays, load_json, save_arrays
from mistakes.errors import InputError
from mistakes.sections import Ood
from mistakes.stage import Run, stage


@stage
def main(run: Run, test: Path, raw: Path, out: Path) -> dict[str, int]:
    """Write out/sets/SET/images.npy; where outputs are given, {features,logits,early_1,...}.npy."""
    section = run.params.ood
    description = load_json(raw / "dataset.json")
    dataset = description["dataset"]
    if dataset in section.sets:
        raise InputError("params.yaml", "ood.sets", dataset, "sets that are not the in-distribution data set itself")
    if given.outputs_in(test):
        return _given(section, raw / "ood", description["arrays"], out)
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


def _given(section: Ood, raw: Path, keys: list[str], out: Path) -> dict[str, int]:
    if not section.sets:
        given.decline("ood", out / "sets")
    metrics = {}
    for name in section.sets:
        arrays = load_arrays(raw / name, *keys)
        rows = sets.chosen(name, len(arrays[0]), section.images, section.seed)
        save_arrays(out / "sets" / name, **{key: array[rows] for key, array in zip(keys, arrays, strict=True)})
        metrics[f"n.{name}"] = len(rows)
    return metrics


if __name__ == "__main__":
    main()
