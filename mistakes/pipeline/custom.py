"""Files of the user's that params.yaml names: do the stages that read them still make the same of
them?

DVC does not watch them, as it does not watch what ``dvc import`` took from elsewhere: what was read
is an output of the stage, and stays one where the files are gone. Whether they changed is found by
reading them again, into another folder, where their sizes or times are not those that this checkout
remembers.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from mistakes.artifacts import save_json
from mistakes.config import classifiers, params
from mistakes.networks import programs
from mistakes.pipeline import journal, snapshot

Seen = dict[str, list[Any]]  # by stage: state of the files, and the outputs that were made of them


class Change(NamedTuple):
    """What became of the files that a stage read: a sentence, and whether the stage can read them
    again.
    """

    sentence: str
    readable: bool


def changed() -> dict[str, Change]:
    """Return for each stage whose files changed since it read them, such as ``raw``, what became of
    them.

    Empty where there are no such files, no results yet, or a file is missing: what was read stands.
    """
    said = {}
    values, tree = params.load(), snapshot.WorkTree()
    locked, as_written = (
        snapshot.mapping(tree, "dvc.lock").get("stages", {}),
        snapshot.mapping(tree, "params.yaml"),
    )
    for stage in ["raw", *(f"classifier@{name}" for name in values.classifiers)]:
        now, entry = state(stage, values), locked.get(stage)
        if now is None or entry is None or snapshot.other_parameter(entry, as_written):
            continue
        then, made = _remembered().get(stage, [None, {}])
        made, refusal = (made, "") if then == now else _again(stage, entry["cmd"].split()[3:], now)
        wanted = snapshot.outputs({stage: entry})
        named = ", ".join(map(str, _named(stage, values)))
        if refusal:
            said[stage] = Change(
                f"{named}: what stage {stage} read can be read no more: {refusal}", readable=False
            )
        elif (
            made
            and not {path: wanted[path] for path in wanted if _kept(path)}.items() <= made.items()
        ):
            problem = (
                f"{named}: changed since stage {stage} read it; mistakes repair && dvc repro reads"
                " it again"
            )
            said[stage] = Change(problem, readable=True)
    return said


def state(stage: str, values: params.Params) -> str | None:
    """Return what tells the user's files of a stage from others, without reading them; None where
    there are none.
    """
    paths = _named(stage, values)
    if not paths or not all(path.exists() for path in paths):
        return None
    files = [
        file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    ]
    stats = [(str(file.resolve()), file.stat()) for file in files if file.is_file()]
    section = _section(stage, values).model_dump()
    return snapshot.digest(
        [stage, section, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]]
    )


def remember(stage: str, now: str, outputs: dict[str, str]) -> None:
    """Keep, for this checkout, what a stage made of files in the state ``now``."""
    with journal.lock("seen"):
        save_json(journal.local("seen.json"), _remembered() | {stage: [now, outputs]})


def _remembered() -> Seen:
    try:
        found: Seen = json.loads(journal.local("seen.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _section(stage: str, values: params.Params) -> Any:
    kind, _, name = stage.partition("@")
    return {"raw": values.raw, "classifier": values.classifiers.get(name)}.get(kind)


def _named(stage: str, values: params.Params) -> list[Path]:
    """Return the paths that a stage's section of params.yaml names, and the user's code behind an
    entry point.
    """
    section = _section(stage, values)
    named = section.model_dump() if section else {}
    found = [named.get(key) for key in ("train", "val", "test", "weights", "path")]
    for key in ("parts", "ood"):
        found += named[key].values() if isinstance(named.get(key), dict) else []
    paths = [path for path in found if isinstance(path, str)]
    # whatever else names a file, such as an argument of an entry point
    others = [text for text in _texts(named) if text not in paths and text.strip("./")]
    # pathlib's raises where a text is too long to be a path
    paths += filter(os.path.exists, others)
    code = (
        programs.files(section.entrypoint).values()
        if isinstance(section, classifiers.Entrypoint)
        else []
    )
    return [*map(Path, paths), *sorted(_shown(path) for path in code)]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _shown(path: Path) -> Path:
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _kept(path: str) -> bool:
    """Tell an output that holds what was read from one with numbers that another machine may round
    otherwise.
    """
    return not path.endswith((".json", ".csv"))


def _again(stage: str, paths: list[str], now: str) -> tuple[dict[str, str], str]:
    """Run a stage into another folder; return its outputs, none where it lacks inputs, and why it
    refused.
    """
    *inputs, out = paths
    if not all(Path(path).exists() for path in inputs):
        return {}, ""
    folder = journal.local("again", uuid.uuid4().hex)
    target = folder / Path(out).relative_to("data")
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))
    }
    command = [sys.executable, "-m", f"stages.{stage.partition('@')[0]}", *inputs, str(target)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {}, (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix(
                "error: "
            )
        made = {
            out + path.removeprefix(target.as_posix()): md5
            for path, md5 in snapshot.written(target).items()
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    remember(stage, now, made)
    return made, ""
