"""The guard's answer to files: images, or features and logits of a model."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mistakes.artifacts import Array
from mistakes.data import archives, feature_files, pictures
from mistakes.detectors import conformal
from mistakes.errors import InputError
from mistakes.serving.guard_model import Deployed, Form

_AT_ONCE = 1000  # images in memory


def check(
    guard: Deployed,
    paths: Sequence[Path],
    alpha: float | None,
    skip: bool,
    fdr: float | None = None,
    error: float | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Return a row for each input, file (or file and row) and what Deployed.predict says; and what
    was left out.

    paths : image files, and folders that are searched for them, hidden files and other kinds left
    out; where the guard was made for outputs, files or folders of features and logits, as module
    feature_files reads them. skip : leave images out that cannot be read. At most one says what is
    flagged, else it is the guard's own alpha. alpha, error : as in Deployed.predict. fdr : the
    share of the flagged that may be false, by which all inputs together are judged
    (conformal.discoveries). Raises InputError where a file is missing, corrupt, or not as the guard
    expects it, and where more than one rule is given.
    """
    asked = {"alpha": alpha, "fdr": fdr, "error": error}
    params = {name: value for name, value in asked.items() if value is not None}
    if len(params) > 1:
        raise InputError(
            "mistakes check", f"{' and '.join(params)} are given, expected one of them"
        )
    if fdr is not None:
        conformal.discoveries(np.ones(1), fdr)  # refused before anything is computed
        answer, left_out = check(guard, paths, None, skip)
        return answer.assign(flagged=conformal.discoveries(answer["p"].to_numpy(), fdr)), left_out
    if guard.form.shape is None:
        return pd.concat([_given(guard, path, params) for path in paths], ignore_index=True), []
    found = [_images(path) for path in paths]
    files, left_out = (
        [file for images, _ in found for file in images],
        [name for _, others in found for name in others],
    )
    answers = []
    for start in range(0, len(files), _AT_ONCE):
        names, images = [], []
        for file in files[start : start + _AT_ONCE]:
            try:
                images.append(_image(file, guard.form))
                names.append(str(file))
            except InputError as error:
                if not skip:
                    raise
                left_out.append(str(error))
        if images:
            answers.append(_named(guard.predict(np.stack(images), params), names))
    if not answers:
        raise InputError(
            "mistakes check", f"none of the {len(left_out)} images can be read: {left_out[0]}"
        )
    return pd.concat(answers, ignore_index=True), left_out


def _given(guard: Deployed, path: Path, params: dict[str, float]) -> pd.DataFrame:
    arrays = feature_files.read({}, {"new": path}, None)[1]["new"]
    try:
        answer = guard.predict(arrays, params)
    except InputError as error:
        raise InputError(path, str(error)) from None
    return _named(answer, [f"{path}:{row}" for row in range(len(answer))])


def _named(answer: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    answer.insert(0, "file", names)
    return answer


def _images(path: Path) -> tuple[list[Path], list[str]]:
    """Return the images of a file or folder, and the names of other files in it."""
    if not path.exists():
        raise InputError(path, "there is no such file or folder")
    if not path.is_dir():
        return [path], []
    inside = {
        file: PurePosixPath(file.relative_to(path).as_posix())
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    shown = [file for file, name in inside.items() if not archives.hidden(name)]
    images = [file for file in shown if file.suffix.lower() in pictures.SUFFIXES]
    if not images:
        raise InputError(
            path, f"no image lies in this folder or below ({', '.join(sorted(pictures.READ))})"
        )
    return images, [str(file) for file in shown if file not in set(images)]


def _image(path: Path, form: Form) -> Array:
    assert form.shape is not None
    image = pictures.read_one(path, form.size, form.shape[0])
    if list(image.shape) != form.shape:
        expected = f"{form.shape[2]} x {form.shape[1]} pixels, as the classifier knows them"
        raise InputError(path, "size", f"{image.shape[2]} x {image.shape[1]}", expected)
    return image
