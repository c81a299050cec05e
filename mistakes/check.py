"""The guard's answer to files: images, or features and logits of a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mistakes import deployment, folders, outputs
from mistakes.artifacts import Array
from mistakes.errors import InputError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def check(model: Path, paths: Sequence[Path], alpha: float | None) -> pd.DataFrame:
    """Return a row for each input: file (or file and row), then what Deployed.predict says.

    paths : image files, and folders that are searched for them; where the guard was made for outputs, files or folders
    of features and logits, as module outputs reads them. alpha : None for that of the guard.
    Raises InputError where a file is missing, corrupt, or not as the guard expects it.
    """
    guard = deployment.load(model)
    params = {} if alpha is None else {"alpha": alpha}
    if guard.form.shape is None:
        answers = []
        for path in paths:
            answer = guard.predict(outputs.read({}, {"new": path}, None)[1]["new"], params)
            answer.insert(0, "file", [f"{path}:{row}" for row in range(len(answer))])
            answers.append(answer)
        return pd.concat(answers, ignore_index=True)
    files = [file for path in paths for file in _images(path)]
    answer = guard.predict(np.stack([_image(file, guard.form.shape) for file in files]), params)
    answer.insert(0, "file", [str(file) for file in files])
    return answer


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise InputError(path, "images", "none", f"files {', '.join(sorted(SUFFIXES))} in the folder or below")
    return found


def _image(path: Path, shape: Sequence[int]) -> Array:
    """Return an image (c, h, w) as the guard knows them: to a square it is scaled and cropped, as raw.size says."""
    channels, height, width = shape
    image = folders.read_one(path, height if height == width else None, channels)
    if list(image.shape) != list(shape):
        raise InputError(path, "size", f"{image.shape[2]} x {image.shape[1]}", f"{width} x {height} pixels")
    return image
