"""Mend what a kill of DVC leaves behind: DVC truncates dvc.lock, and its own locks, before it writes them."""

import json
import subprocess
from pathlib import Path

import yaml

from mistakes.errors import InputError


def repair(folder: Path = Path()) -> list[str]:
    """Put back the committed dvc.lock where the one in ``folder`` was cut short; return a sentence for each mend.

    Without a committed one the file is removed: DVC then takes every result from its run cache, or computes it. Raises
    InputError where the committed file is no better.
    """
    said = []
    locks = folder / ".dvc" / "tmp" / "rwlock"
    if locks.is_file() and not _is_json(locks):
        locks.unlink()
        said.append(f"{locks}: was cut short and is removed; it only says which files DVC is using")
    lock = folder / "dvc.lock"
    if not lock.is_file() or _whole(lock.read_bytes()):
        return said
    shown = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=folder, capture_output=True, check=False)
    if shown.returncode != 0:
        lock.unlink()
        return [*said, "dvc.lock: was cut short and is removed; what the run cache holds is not computed again"]
    if not _whole(shown.stdout):
        raise InputError("dvc.lock", "was cut short, and so is the committed one (git log dvc.lock)")
    temporary = lock.with_name(".dvc.lock.partial")
    temporary.write_bytes(shown.stdout)
    temporary.replace(lock)
    said.append(
        "dvc.lock: was cut short; the committed one is put back, and what came after it is taken from the run cache"
    )
    changed = subprocess.run(
        ["git", "diff", "--name-only", "HEAD", "--", "data", "params.yaml"],
        cwd=folder, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    if changed:
        said.append(f"dvc.lock: results that it held were never committed: {', '.join(changed[:5])}")
    return said


def _whole(text: bytes) -> bool:
    """Tell whether ``text`` is a lock file of DVC: whole lines, a mapping with a command for each stage.

    One that ends after a whole line of a stage's entry is taken by DVC as it is: what is missing is looked up.
    """
    if not text.endswith(b"\n"):
        return False
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    stages = found.get("stages") if isinstance(found, dict) else None
    return isinstance(stages, dict) and all(isinstance(s, dict) and "cmd" in s for s in stages.values())


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
