"""What results are made of: files of a working tree or of a git revision, and the key of their
content.

A name or a path is no content: what dvc.lock holds is, and a key is made of that.
"""

import functools
import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Protocol

import yaml

from mistakes.config import params
from mistakes.errors import InputError

CODE = ("stages", "mistakes")
# their results change with any classifier, so no row is known by them
TOGETHER = (
    "report",
    "track",
)


class Tree(Protocol):
    """Files by relative path."""

    @property
    def rev(self) -> str | None:
        """The full git revision; None for a working tree."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""

    def code(self) -> list[str]:
        """Return the sorted paths of all Python files and templates of the project."""


class WorkTree:
    """The files below a folder."""

    rev: str | None = None

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""
        file = self.folder / path
        return file.read_bytes() if file.is_file() else None

    def code(self) -> list[str]:
        """Return the sorted paths of all Python files and templates of the project."""
        found = (
            file
            for name in CODE
            for file in (self.folder / name).rglob("*")
            if file.suffix in {".py", ".j2"}
        )
        return sorted(file.relative_to(self.folder).as_posix() for file in found)


class GitTree:
    """The files of a git revision: a commit, branch, tag, or the name of a DVC experiment.

    Paths are those from ``folder``, which may lie anywhere in the repository.
    """

    def __init__(self, rev: str, folder: Path = Path()) -> None:
        self.folder = folder
        self.experiment: str | None = None  # the name, where ``rev`` is that of a DVC experiment
        self.rev: str = self._resolve(rev)

    def _git(self, *arguments: str) -> bytes | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self.folder, capture_output=True, check=False
            )
        except FileNotFoundError:
            raise InputError("git", "it is not installed, and only git knows revisions") from None
        return done.stdout if done.returncode == 0 else None

    def _resolve(self, rev: str) -> str:
        found = self._git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}")
        if found is None:  # a DVC experiment stands at refs/exps/<2>/<38>/<name>
            lines = (
                self._git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or b""
            ).splitlines()
            named = [line.split()[0] for line in lines if line.decode().rsplit("/", 1)[-1] == rev]
            found = named[0] if named else None
            self.experiment = rev
        if found is None:
            raise InputError("git", self._why_not(rev))
        return found.decode().strip()

    def _why_not(self, rev: str) -> str:
        if self._git("rev-parse", "--is-inside-work-tree") is None:
            return f"{self.folder.resolve()} is in no git repository (git status says more)"
        if self._git("rev-parse", "--verify", "--quiet", "HEAD") is None:
            return "there is no commit yet, and this needs one (git add --all && git commit)"
        return f"{rev!r} is neither a git revision nor the name of a DVC experiment"

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None where the revision has no such file."""
        return self._git("show", f"{self.rev}:./{path}")

    def code(self) -> list[str]:
        """Return the sorted paths of all Python files and templates of the project."""
        listed = self._git("ls-tree", "-r", "-z", "--name-only", self.rev, "--", *CODE) or b""
        names = os.fsdecode(listed).split("\0")
        return sorted(name for name in names if name.endswith((".py", ".j2")))


def configuration(tree: Tree) -> params.Params:
    """Return the parameters of a tree. Raises InputError where they are missing or invalid."""
    text = tree.read("params.yaml")
    where = f"params.yaml of {tree.rev[:8]}" if tree.rev else "params.yaml"
    if text is None:
        raise InputError(where, "there is no such file")
    return params.parse(text, where)


def mapping(tree: Tree, path: str) -> dict[str, Any]:
    """Return what a YAML file of ``tree`` holds, for reading only; {} where there is none."""
    return _parsed(tree.read(path) or b"{}", path)


@functools.cache  # these files are asked for again and again, and YAML is slow
def _parsed(text: bytes, path: str) -> dict[str, Any]:
    return params.parse_yaml(text, path)


def locked(tree: Tree, name: str) -> dict[str, Any]:
    """Return dvc.lock's entries, by stage, of the stages in today's dvc.yaml that ``name`` has a
    part in.
    """
    entries = mapping(tree, "dvc.lock").get("stages", {})
    wanted = {stage: f"{stage}@{name}" if each else stage for stage, each in _stages(tree).items()}
    return {stage: entries[entry] for stage, entry in wanted.items() if entry in entries}


def _stages(tree: Tree) -> dict[str, bool]:
    """Return the stages of dvc.yaml, and whether each runs once for each classifier."""
    stages = mapping(tree, "dvc.yaml").get("stages", {})
    return {stage: "foreach" in definition for stage, definition in stages.items()}


def outputs(locked_stages: dict[str, Any]) -> dict[str, str]:
    """Return the md5 of every output of dvc.lock's entries by its path."""
    return {
        out["path"]: out.get("md5", "")
        for entry in locked_stages.values()
        for out in entry.get("outs", [])
    }


def own_outputs(tree: Tree, name: str) -> dict[str, str]:
    """Return the same for classifier ``name``, without the stages that join classifiers."""
    return outputs(
        {stage: entry for stage, entry in locked(tree, name).items() if stage not in TOGETHER}
    )


def key(tree: Tree, name: str) -> str:
    """Return the content key of classifier ``name``: 16 hexadecimal digits.

    Made of its parameters (without those of other classifiers) and of the md5s that dvc.lock holds
    of its outputs: other data, weights or code under the same name are another key when, and only
    when, they give other results.
    """
    return digest([_values(tree, name), sorted(own_outputs(tree, name).items())])


def progress_key(tree: Tree, name: str) -> str:
    """Return the key of classifier ``name`` while its results are being made: of its parameters.

    Two checkouts or experiments never share one: what each is making comes together in its own row.
    """
    here = [socket.gethostname(), str(Path.cwd()), os.environ.get("DVC_EXP_NAME", "")]
    return digest([_values(tree, name), here])


def code(tree: Tree) -> str:
    """Return a key of dvc.yaml and the code, by which a commit is told from others with the same
    results.
    """
    texts = [(path, (tree.read(path) or b"").decode()) for path in ["dvc.yaml", *tree.code()]]
    return digest(texts)


def _values(tree: Tree, name: str) -> dict[str, Any]:
    values = mapping(tree, "params.yaml")
    return values | {"classifiers": {name: values.get("classifiers", {}).get(name)}}


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits for what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def mismatch(tree: Tree, name: str) -> str | None:
    """Return why the files of ``tree`` are not the results of its params.yaml for ``name``; None
    where they are.

    Looks at the parameters and inputs that dvc.lock says each stage had, and at the files that git
    keeps.
    """
    entries = {stage: entry for stage, entry in locked(tree, name).items() if stage not in TOGETHER}
    missing = [stage for stage in _stages(tree) if stage not in entries and stage not in TOGETHER]
    if missing:
        return f"dvc.lock has no results of {name} by {', '.join(missing)}"
    made, values = outputs(entries), mapping(tree, "params.yaml")
    for stage, entry in entries.items():
        place = other_parameter(entry, values)
        if place is not None:
            return f"{place} in params.yaml is not what stage {stage} ran with"
        for dep in entry.get("deps", []):
            if made.get(dep["path"], dep.get("md5")) != dep.get("md5"):
                return f"{dep['path']} is not what stage {stage} has read"
        for out in entry.get("outs", []):
            text = tree.read(out["path"]) if out["path"].endswith((".json", ".csv")) else None
            if text is not None and hashlib.md5(text, usedforsecurity=False).hexdigest() != out.get(
                "md5"
            ):
                return f"{out['path']} is not what stage {stage} wrote"
    return None


def other_parameter(entry: dict[str, Any], values: dict[str, Any]) -> str | None:
    """Return the first place in params.yaml's ``values`` that is not what dvc.lock's entry ran
    with.
    """
    ran_with = entry.get("params", {}).get("params.yaml", {})
    return next((place for place, value in ran_with.items() if at(values, place) != value), None)


def at(values: Any, place: str) -> Any:
    """Return what stands at ``section.key`` in nested mappings, None where nothing does."""
    for part in place.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def written(out: Path) -> dict[str, str]:
    """Return DVC's md5 of an output folder and of each file or folder in it, by path."""
    return {path.as_posix(): md5(path) for path in [out, *sorted(out.iterdir())]}


def md5(path: Path) -> str:
    """Return DVC's md5 of a file, or of a folder: that of the JSON list of its files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = [
            {"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files
        ]
        text = json.dumps(sorted(listed, key=lambda entry: entry["relpath"]), sort_keys=True)
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"
    state = path.stat()
    return _md5_of_file(path, state.st_size, state.st_mtime_ns)


@functools.cache
def _md5_of_file(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unchanged_for(stage: str, out: Path) -> bool:
    """Tell whether dvc.lock says that ``stage`` has seen a file of folder ``out`` just as it now
    is.
    """
    lock = yaml.safe_load(WorkTree().read("dvc.lock") or b"") or {}
    seen = {
        dep["path"]: dep.get("md5") for dep in lock.get("stages", {}).get(stage, {}).get("deps", [])
    }
    files = {path: WorkTree().read(path) for path in seen if Path(path).parent == out}
    return any(
        data is not None and hashlib.md5(data).hexdigest() == seen[path]
        for path, data in files.items()
    )
