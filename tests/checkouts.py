"""Real clones of the project: made, reproduced, copied."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

from commands import ROOT
from fork_server import launcher


class Checkout:
    """A temporary clone of the project, with the smoke variant of the parameters, and the commands
    to use it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # the clone's own code runs (python -m looks in the working folder first), with this
        # environment's packages
        self.env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MLFLOW", "DVC", "GIT_"))
        }
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # sixteen stages compile the code once
        self.plain_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env |= {"PATH": f"{launcher()}:{self.plain_path}", "TRACKING_STRICT": "1"}
        self.env |= {
            f"GIT_{who}_{what}": "test@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }

    def run(
        self, *command: str, check: bool = True, capture_output: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        to = subprocess.PIPE if capture_output else subprocess.DEVNULL
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            text=True,
            stdout=to,
            stderr=to,
            check=False,
            timeout=900,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def set(self, old: str, new: str) -> None:
        path = self.folder / "params.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def runs(self, **tags: str) -> list:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("mistakes").experiment_id
        wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
        return list(client.search_runs([experiment], wanted))


def clone(folder: Path) -> Checkout:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if (ROOT / name).is_file() and not name.startswith(
            "data/"
        ):  # results of the default run have no place in it
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy2(ROOT / "tests" / "smoke" / "params.yaml", folder / "params.yaml")
    (folder / "dvc.lock").unlink(missing_ok=True)
    checkout = Checkout(folder)
    checkout.run("git", "init", "--quiet", "--initial-branch=main")
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message=start")
    return checkout


def duplicate(checkout: Checkout, folder: Path, *without: str) -> Checkout:
    """Copy a checkout with its cache, but not what DVC keeps for the moment; ``without`` names more
    to leave out.
    """
    ignored = {str(checkout.folder / name) for name in (".dvc/tmp", *without)}
    cache = str(checkout.folder / ".dvc/cache/files")

    def copy(source: str, target: str) -> None:
        with suppress(OSError):  # another disk
            if source.startswith(cache):  # nobody writes into these
                os.link(source, target)
                return
        shutil.copy2(source, target)

    def left_out(at: str, names: list[str]) -> list[str]:
        return [name for name in names if f"{at}/{name}" in ignored]

    shutil.copytree(checkout.folder, folder, ignore=left_out, symlinks=True, copy_function=copy)
    store = folder / "mlflow.db"
    if store.exists():  # which knows where its artifacts are
        with closing(sqlite3.connect(store)) as rows, rows:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                rows.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    (str(checkout.folder), str(folder)),
                )
    return Checkout(folder)


def reproduce(folder: Path) -> Checkout:
    """Run the smoke pipeline in a clone, and commit its results."""
    checkout = clone(folder)
    checkout.run("dvc", "repro")
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message=results")
    return checkout
