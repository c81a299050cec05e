"""The folder of the project, so that a command may be typed in any folder below it."""

import os
import sys
from pathlib import Path

from mistakes.errors import InputError


def find() -> Path | None:
    """Return the nearest folder, from here upwards, that holds the pipeline; None outside of any
    project.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        # `mistakes use` brings a lost params.yaml back; a dvc.yaml alone may be a pipeline of
        # another kind
        if (folder / "dvc.yaml").is_file() and any(
            (folder / name).exists() for name in ("params.yaml", "stages/raw.py")
        ):
            return folder
    return None


def enter() -> Path:
    """Go to the project's folder, to which every path of the project relates; return where the user
    was.

    Code that the user keeps in the project can be imported afterwards. Raises InputError outside of
    any project.
    """
    here, folder = Path.cwd(), find()
    if folder is None:
        raise InputError(
            here,
            "there is no project here (no folder from here upwards holds dvc.yaml and params.yaml)",
        )
    if folder != here:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
    return here


def moved(path: Path, here: Path) -> Path:
    """Return a path typed in ``here`` relative to the present folder; absolute paths stay."""
    if path.is_absolute() or here == Path.cwd():
        return path
    full = here / path
    return Path(os.path.relpath(full.resolve() if ".." in path.parts else full))
