"""What a configuration is made of: files of a working tree or of a git revision, and the key of their content."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Protocol

import yaml

from mistakes import params
from mistakes.errors import InputError

CODE = ("stages", "mistakes")


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
        found = (file for name in CODE for file in (self.folder / name).rglob("*") if file.suffix in {".py", ".j2"})
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
            done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, check=False)
        except FileNotFoundError:
            raise InputError("git", "it is not installed, and only git knows revisions") from None
        return done.stdout if done.returncode == 0 else None

    def _resolve(self, rev: str) -> str:
        found = self._git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}")
        if found is None:  # a DVC experiment stands at refs/exps/<2>/<38>/<name>
            lines = (self._git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or b"").splitlines()
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


def key(tree: Tree, name: str) -> str:
    """Return the content key of classifier ``name`` in one configuration: 16 hexadecimal digits.

    Made of its parameters (without those of other classifiers), dvc.yaml and the code. The raw data enter through the
    checksums that the code pins, own images only through their path.
    """
    values = configuration(tree).model_dump()
    values["classifiers"] = {name: values["classifiers"].get(name)}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in ["dvc.yaml", *tree.code()]:
        digest.update(path.encode() + b"\0" + (tree.read(path) or b"") + b"\0")
    return digest.hexdigest()[:16]


def unchanged_for(stage: str, out: Path) -> bool:
    """Tell whether dvc.lock says that ``stage`` has seen a file of folder ``out`` just as it now is."""
    lock = yaml.safe_load(WorkTree().read("dvc.lock") or b"") or {}
    seen = {dep["path"]: dep.get("md5") for dep in lock.get("stages", {}).get(stage, {}).get("deps", [])}
    files = {path: WorkTree().read(path) for path in seen if Path(path).parent == out}
    return any(data is not None and hashlib.md5(data).hexdigest() == seen[path] for path, data in files.items())
