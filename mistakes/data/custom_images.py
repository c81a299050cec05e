"""What stage raw keeps of own images: for each part and OOD set the images, a table of files, what
there is to say.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mistakes.artifacts import load_csv, load_json, save_arrays, save_csv
from mistakes.data import groups, image_folder
from mistakes.data.image_folder import Folder


def parts(
    train: str,
    val: str | None,
    test: str | None,
    classes: list[str] | None,
    size: int | None,
    channels: int,
    corrupt: str,
) -> dict[str, Folder]:
    """Read train, and val and test where there are such, from their own paths or from folders of
    splits at train's.

    The arguments are keys of section ``raw``, explained in docs/images.md. Raises InputError as
    module image_folder does.
    """
    paths = {"train": train, "val": val, "test": test}
    within = image_folder.splits(Path(train), classes)
    if test is None and val is None and "test" not in within and "val" in within:
        within["test"] = within.pop("val")  # as ImageNet's
    taken = [name for name in paths if name in within and (name == "train" or paths[name] is None)]
    if within:
        print(
            "raw: splits of raw.train: " + ", ".join(f"{name} is {within[name]}" for name in taken),
            flush=True,
        )
    found: dict[str, Folder] = {}
    for name, path in {**paths, **dict.fromkeys(taken, train)}.items():
        if path is not None:
            found[name] = image_folder.read(
                Path(path), size, channels, corrupt, found.get("train"), classes, name
            )
    return found


def save(out: Path, found: Mapping[str, Folder], by: str | None) -> dict[str, object]:
    """Write out/PART/{images,labels}.npy and files.csv, with ``by`` (raw.groups) also groups;
    return the description.

    Raises InputError as module groups does.
    """
    names = (
        {}
        if by is None
        else groups.of_files(by, {name: part.files for name, part in found.items()})
    )
    numbers = groups.numbered(names, "params.yaml: raw.groups") if names else {}
    for name, part in found.items():
        arrays = {"images": part.images, "labels": part.labels} | (
            {"groups": numbers[name]} if names else {}
        )
        save_arrays(out / name, **arrays)
        save_csv(
            out / name / "files.csv",
            table(part).assign(**({"group": names[name]} if names else {})),
        )
    first = next(iter(found.values()))
    return {
        "classes": first.classes,
        "parts": list(found),
        "skipped": {name: part.skipped for name, part in found.items()},
        "ignored": {name: part.ignored for name, part in found.items()},
    }


def save_ood(out: Path, path: Path, shape: tuple[int, int, int], corrupt: str) -> list[str]:
    """Write out/images.npy and files.csv of a set of images of any layout; return the warnings."""
    part = image_folder.read_flat(path, shape, corrupt)
    save_arrays(out, images=part.images)
    save_csv(out / "files.csv", table(part))
    return list(part.warnings)


def files(raw: Path) -> pd.DataFrame | None:
    """Return the table of files of all parts, a row for each index of an image; None where stage
    raw kept no images of files. Columns: file, sha256, and group where there are groups.
    """
    description = load_json(raw / "dataset.json")
    if "parts" not in description or "arrays" in description:
        return None
    tables = [load_csv(raw / part / "files.csv") for part in description["parts"]]
    return pd.concat(tables, ignore_index=True)


def table(part: Folder) -> pd.DataFrame:
    """Return a row for each image: its file, and the SHA-256 of that file."""
    return pd.DataFrame({"file": part.files, "sha256": part.sha256})
