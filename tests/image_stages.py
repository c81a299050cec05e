"""Stages on custom images, in the folder where the test is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from commands import SMOKE
from pictures import SETTINGS, picture

Stages = Callable[..., str]
TEST = {
    f"{name}/{i}.png": picture(100 + 10 * label + i)
    for label, name in enumerate(("bird", "cat"))
    for i in range(3)
}


def settings(
    images: dict[str, object] | None = None, sets: list[str] | None = None, **raw: object
) -> None:
    values = yaml.safe_load(SMOKE) | {"raw": SETTINGS | raw}
    values["images"] |= {"val": 2, "cal": 3, "test": 2} | (images or {})
    values["ood"] |= {"sets": sets or ["uniform"], "images": 30}
    Path("params.yaml").write_text(yaml.safe_dump(values))


def loaded(split: str, key: str, root: str = "data/images") -> np.ndarray:
    return np.load(f"{root}/{split}/{key}.npy")


def warnings(folder: str = "data/images") -> str:
    return "\n".join(json.loads(Path(folder, "warnings.json").read_text()))


def below(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}/{name}": content for name, content in files.items()}
