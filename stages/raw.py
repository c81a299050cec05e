"""Fetch and verify the files of data sets, or read own images or own features."""

from pathlib import Path
from typing import Any

from mistakes.artifacts import save_arrays, save_json
from mistakes.config.raw import FeatureFiles, Fetched, ImageFolder
from mistakes.data import custom_images, download, feature_files
from mistakes.pipeline.runner import Run, stage


@stage
def main(run: Run, out: Path) -> None:
    """Write the raw files, or out/PART/{images,labels}.npy and files.csv, and OOD data sets below
    out/ood/NAME.

    Of own features: out/PART/{features,logits,labels,early_1,...}.npy. Where it is known what
    belongs together, also out/PART/groups.npy. dataset.json in a folder says what it holds; its
    warnings are stage images' to tell.
    """
    section = run.params.raw
    description: dict[str, Any]
    if isinstance(section, FeatureFiles):
        description = _feature_files(section, out)
    elif isinstance(section, ImageFolder):
        description = _image_folder(section, out)
    else:
        description = dict(download.fetch(section.dataset, out))
        description |= _ood(section, out, download.SHAPES[section.dataset])
    save_json(out / "dataset.json", {"dataset": section.dataset, **description})
    for sentence in description.get("warnings", []):
        run.warn(sentence)


def _image_folder(section: ImageFolder, out: Path) -> dict[str, Any]:
    parts = custom_images.parts(**section.model_dump(exclude={"dataset", "groups", "ood"}))
    description = custom_images.save(out, parts, section.groups)
    said = [f"raw.{name}: {sentence}" for name, part in parts.items() for sentence in part.warnings]
    more = _ood(section, out, parts["train"].images.shape[1:])
    return description | {"warnings": said + more.get("warnings", [])}


def _ood(
    section: Fetched | ImageFolder, out: Path, shape: tuple[int, int, int]
) -> dict[str, list[str]]:
    """Fetch or read OOD sets; return what there is to say, under the key warnings where there is
    something.
    """
    corrupt = section.corrupt if isinstance(section, ImageFolder) else "skip"
    said = []
    for name, path in (
        section.ood if isinstance(section.ood, dict) else dict.fromkeys(section.ood)
    ).items():
        folder = out / "ood" / name
        if path is None:
            files = download.fetch(name, folder, test_only=True)
            save_json(folder / "dataset.json", {"dataset": name, **files})
        else:
            warnings = custom_images.save_ood(folder, Path(path), shape, corrupt)
            said += [f"raw.ood.{name}: {sentence}" for sentence in warnings]
            save_json(folder / "dataset.json", {"dataset": "image_folder"})
    return {"warnings": said} if said else {}


def _feature_files(section: FeatureFiles, out: Path) -> dict[str, Any]:
    said: list[str] = []
    paths, ood_paths = (
        {name: Path(path) for name, path in of.items()} for of in (section.parts, section.ood)
    )
    parts, ood = feature_files.read(paths, ood_paths, section.classes, said.append)
    for folder, arrays in [
        *parts.items(),
        *((f"ood/{name}", arrays) for name, arrays in ood.items()),
    ]:
        save_arrays(out / folder, **arrays)
    first = next(iter(parts.values()))
    numbers = [str(number) for number in range(first["logits"].shape[1])]
    inputs = [key for key in first if key not in {"labels", "groups"}]
    return {
        "classes": section.classes or numbers,
        "parts": list(parts),
        "arrays": inputs,
        "warnings": said,
    }


if __name__ == "__main__":
    main()
