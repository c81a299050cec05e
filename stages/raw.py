"""Fetch and verify the files of data sets, or read own images."""

from pathlib import Path

from mistakes import folders, sources
from mistakes.artifacts import save_arrays, save_csv, save_json
from mistakes.sections import ImageFolder
from mistakes.stage import Run, stage


@stage
def main(run: Run, out: Path) -> None:
    """Write the raw files, or out/PART/{images,labels}.npy and files.csv, and OOD data sets below out/ood/NAME.

    dataset.json in each folder says what it holds.
    """
    section = run.params.raw
    if isinstance(section, ImageFolder):
        description = _own_images(section, out)
    else:
        description = dict(sources.fetch(section.dataset, out))
    save_json(out / "dataset.json", {"dataset": section.dataset, **description})
    for name in section.ood:
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


if __name__ == "__main__":
    main()
