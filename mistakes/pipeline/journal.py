"""A journal of stage executions on this machine's disk: what MLflow is told, kept until it has been
told.

One file an execution, JSON lines: ``start``, any number of ``metrics``, ``end``. The file is locked
while its stage runs, so a file that can be locked and has no ``end`` belongs to a process that was
killed. Writing it needs neither MLflow nor a network, so tracking never delays or decides a stage.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Event = dict[str, Any]


def root() -> Path:
    """Return DVC's root: in `dvc exp run --temp` the working folder is thrown away, DVC_ROOT is
    not.

    Without DVC_ROOT it is, as for DVC, the nearest folder that holds .dvc, which may lie above the
    project's.
    """
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"]).resolve()
    here = Path().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def local(*parts: str) -> Path:
    """Return a path below DVC's folder for temporary files, which git and DVC ignore."""
    return root().joinpath(".dvc", "tmp", "mistakes", *parts)


class Execution:
    """One execution of one stage; every method appends a line."""

    def __init__(
        self, stage: str, name: str | None, key: str, environment: str = "", commit: str = ""
    ) -> None:
        """Begin. ``name`` is the classifier's (None for stages that serve all), ``key`` its
        progress key.

        ``environment`` and ``commit``: packages and commit, as module environment tells them.
        """
        self.id = uuid.uuid4().hex
        self.path = local("journal") / f"{self.id}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        _flock(self._file)
        dvc = {
            key: os.environ[key]
            for key in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
            if os.environ.get(key)
        }
        where = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "environment": environment,
            "commit": commit,
        }
        self._write("start", stage=stage, name=name, key=key, dvc=dvc, **where)

    def _write(self, event: str, **values: Any) -> Event:
        line = {"event": event, "id": self.id, "time": int(time.time() * 1000), **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        return line

    def metrics(self, step: int, values: dict[str, float]) -> Event:
        """Add one point of each curve."""
        return self._write("metrics", step=step, values=values)

    def end(self, status: str, **values: Any) -> None:
        """Finish with an MLflow run status; closes the file and so gives its lock back."""
        self._write("end", status=status, **values)
        self._file.close()

    def events(self) -> list[Event]:
        """Return what was written so far."""
        return read(self.path)


def read(path: Path) -> list[Event]:
    """Return the events of a file; a last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def pending() -> Iterator[tuple[Path, list[Event]]]:
    """Yield the finished or killed executions that MLflow has not been told; each stays locked
    while it is handled.

    A killed one gets an ``end`` with the status KILLED. Executions under way, and those that
    another process is handling, are passed over.
    """
    for path in sorted(local("journal").glob("*.jsonl"), key=lambda file: file.stat().st_mtime):
        with _locked_now(path) as file:
            events = read(path) if file is not None else []
            if not events:
                continue
            if events[-1]["event"] != "end":
                when = int(path.stat().st_mtime * 1000)
                events.append(
                    {"event": "end", "id": events[0]["id"], "time": when, "status": "KILLED"}
                )
            yield path, events


@contextmanager
def _locked_now(path: Path) -> Iterator[IO[str] | None]:
    try:
        with path.open("r+", encoding="utf-8") as file:
            _flock(file, wait=False)
            yield file
    except (BlockingIOError, FileNotFoundError):
        yield None


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock of this checkout: what several processes must not do at once."""
    path = local(f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _flock(file)
        yield


def _flock(file: IO[str], wait: bool = True) -> None:
    """Lock an open file until it is closed; raises BlockingIOError where another process holds it
    and none waits.
    """
    import fcntl  # not there on every system: module environment says so in one line

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
