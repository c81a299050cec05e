"""Draw the out-of-distribution sets, or take them from other data sets, once."""

from pathlib import Path

from mistakes.artifacts import Array, load_arrays, load_json, save_arrays
from mistakes.config.sections import Ood
from mistakes.data import datasets, duplicates, formats, precomputed
from mistakes.data import ood as sets
from mistakes.errors import InputError
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, test: Path, raw: Path, out: Path) -> dict[str, float]:
    """Write out/sets/SET/images.npy; where outputs are given, {features,logits,early_1,...}.npy."""
    section, description = run.params.ood, load_json(raw / "dataset.json")
    dataset = description["dataset"]
    if dataset in section.sets:
        raise InputError(
            "params.yaml",
            "ood.sets",
            dataset,
            "sets that are not the in-distribution data set itself",
        )
    if precomputed.outputs_in(test):
        drawn = _given(section, raw / "ood", description["arrays"], out)
    else:
        drawn = _images(section, load_arrays(test, "images")[0], raw / "ood")
    for name, arrays in drawn.items():
        save_arrays(out / "sets" / name, **arrays)
    _warn(run, drawn, dataset, raw)
    return {}


def _images(section: Ood, images: Array, raw: Path) -> dict[str, dict[str, Array]]:
    drawn = {}
    for name in section.sets:
        fetched = raw / name
        if (fetched / "images.npy").is_file():
            (theirs,) = load_arrays(fetched, "images")
        elif fetched.is_dir():
            theirs = formats.read(name, fetched, "test")[0]
        else:
            drawn[name] = sets.draw(name, images, section.images, section.patch, section.seed)
            continue
        drawn[name] = sets.resembling(name, theirs, images, section.images, section.seed)
    return {name: {"images": array} for name, array in drawn.items()}


def _given(section: Ood, raw: Path, keys: list[str], out: Path) -> dict[str, dict[str, Array]]:
    if not section.sets:
        precomputed.decline("ood", out / "sets")
    drawn = {}
    for name in section.sets:
        arrays = load_arrays(raw / name, *keys)
        rows = sets.chosen(name, len(arrays[0]), section.images, section.seed)
        drawn[name] = {key: array[rows] for key, array in zip(keys, arrays, strict=True)}
    return drawn


def _warn(run: Run, drawn: dict[str, dict[str, Array]], dataset: str, raw: Path) -> None:
    """Say which sets of raw.ood are not used, and which hold inputs of the data set itself."""
    here = {path.name for path in (raw / "ood").glob("*")}
    for name in sorted(here - drawn.keys()):
        run.warn(f"the set {name} of raw.ood is not used, for ood.sets does not name it")
    known = duplicates.known(datasets.read(dataset, raw)) if here & drawn.keys() else set()
    for name in sorted(here & drawn.keys()):
        theirs = duplicates.digests(drawn[name])
        both, n = sum(digest in known for digest in theirs), len(theirs)
        if both:
            run.warn(
                f"inputs of the OOD set {name} that are inputs of the data set too, by SHA-256:"
                f" {both} of {n}"
            )


if __name__ == "__main__":
    main()
