"""Fetch and verify the files of data sets, or read own images or own features."""

from pathlib import Path

from mistakes import folders, outputs, sources
from mistakes.artifacts import save_arrays, save_csv, save_json
from mistakes.raws import ImageFolder, OwnFeatures
from mistakes.stage import Run, stage


@stage
def main(run: Run, out: Path) -> None:
    """Write the raw files, or out/PART/{images,labels}.npy and files.csv, and OOD data sets below out/ood/NAME.

    Of own features: out/PART/{features,logits,labels,early_1,...}.npy. dataset.json in a folder says what it holds.
    """
    section = run.params.raw
    if isinstance(section, ImageFolder):
        description = _own_images(section, out)
    elif isinstance(section, OwnFeatures):
        description = _own_features(section, out)
    else:
        description = dict(sources.fetch(section.dataset, out))
    save_json(out / "dataset.json", {"dataset": section.dataset, **description})
    for name in [] if isinstance(section, OwnFeatures) else section.ood:
        files = sources.fetch(name, out / "ood" / name, test_only=True)
        save_json(out / "ood" / name / "dataset.json", {"dataset": name, **files})


def _own_images(section: ImageFolder, out: Path) -> dict[str, object]:
    import pandas as pd

    train = folders.read(Path(section.train), section.size, section.channels, section.corrupt)
    parts = {"train": train}
    if section.test is not None:
        path = Path(section.test)
        parts["test"] = folders.read(path, section.size, section.channels, section.corrupt, like=train)
    for name, part in parts.items():
        save_arrays(out / name, images=part.images, labels=part.labels)
        save_csv(out / name / "files.csv", pd.DataFrame({"file": part.files, "sha256": part.sha256}))
    return {
        "classes": train.classes,
        "parts": list(parts),
        "skipped": {name: part.skipped for name, part in parts.items()},
        "ignored": {name: part.ignored for name, part in parts.items()},
    }


def _own_features(section: OwnFeatures, out: Path) -> dict[str, object]:
    paths, foreign = ({name: Path(path) for name, path in of.items()} for of in (section.parts, section.ood))
    parts, ood = outputs.read(paths, foreign, section.classes)
    for folder, arrays in [*parts.items(), *((f"ood/{name}", arrays) for name, arrays in ood.items())]:
        save_arrays(out / folder, **arrays)
    first = next(iter(parts.values()))
    numbers = [str(number) for number in range(first["logits"].shape[1])]
    return {"classes": section.classes or numbers, "parts": list(parts), "arrays": [k for k in first if k != "labels"]}


if __name__ == "__main__":
    main()
