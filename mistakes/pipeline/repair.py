"""Mend what a kill of DVC leaves behind: DVC truncates dvc.lock, and its own locks, before it
writes them.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from mistakes.errors import InputError


def repair(folder: Path = Path()) -> list[str]:
    """Put back the committed dvc.lock where the one in ``folder`` was cut short; return a sentence
    for each mend.

    Where none is committed the file is removed: DVC then takes every result from its run cache, or
    computes it. Raises InputError where the committed file was cut short too.
    """
    said = []
    locks, lock = folder / ".dvc" / "tmp" / "rwlock", folder / "dvc.lock"
    if locks.is_file() and not _is_json(locks):
        locks.unlink()
        said.append(
            f"{locks}: it was cut short and is removed; it only says which files DVC is using"
        )
    if not lock.is_file():
        return said
    shown = subprocess.run(
        ["git", "show", "HEAD:./dvc.lock"], cwd=folder, capture_output=True, check=False
    )
    committed, found = _entries(shown.stdout), _entries(lock.read_bytes())
    # DVC never takes an entry out of its lock, so one that lacks a committed entry, or a part of
    # one, lost it
    if found is not None and all(
        part in found.get(stage, {}) for stage, entry in (committed or {}).items() for part in entry
    ):
        return said
    if shown.returncode != 0:
        lock.unlink()
        return [
            *said,
            (
                "dvc.lock: it was cut short and is removed; what the run cache holds is not"
                " computed again"
            ),
        ]
    if committed is None:
        raise InputError(
            "dvc.lock", "it was cut short, and so was the committed one (git log dvc.lock)"
        )
    temporary = lock.with_name(".dvc.lock.partial")
    temporary.write_bytes(shown.stdout)
    temporary.replace(lock)
    said.append(
        "dvc.lock: it was cut short; the committed one is put back, what came after it is in the"
        " run cache"
    )
    changed = subprocess.run(
        ["git", "diff", "--name-only", "--relative", "HEAD", "--", "data", "params.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if changed:
        said.append(f"dvc.lock: it held results that were never committed: {', '.join(changed)}")
    return said


def _entries(text: bytes) -> dict[str, Any] | None:
    """Return the entries of a lock file of DVC by stage; None where ``text`` is none, or ends
    within a line.
    """
    try:
        found = yaml.safe_load(text) if text.endswith(b"\n") else None
    except yaml.YAMLError:
        return None
    stages = found.get("stages") if isinstance(found, dict) else None
    whole = isinstance(stages, dict) and all(
        isinstance(s, dict) and "cmd" in s for s in stages.values()
    )
    return stages if whole else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
