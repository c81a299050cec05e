"""MLflow as a view that can be rebuilt: DVC's files and the journal are the truth.

One row (parent run, ``level=pipeline``) is one classifier with one set of results, found by its
content key; each execution of a stage is a child run (``level=stage``). While results are being
made there is no such key yet: then the row is one in progress, which stage ``track`` completes, or
takes into the row that has these results already. Nothing here decides a result: a store that does
not answer is one warning (an error with TRACKING_STRICT=1), and the rows are completed later.
"""

import getpass
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# MLflow's own defaults hang for 4 minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from mistakes.errors import InputError
from mistakes.pipeline import environment, journal, snapshot

Event = journal.Event


def uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the SQLite file in the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{journal.root() / 'mlflow.db'}"


class Store:
    """The MLflow experiment that this project writes to."""

    def __init__(self) -> None:
        """Open the store; a new one is made under a lock, since several processes making it at once
        break it.
        """
        with journal.lock("mlflow"):
            _make_database(uri())
            self.client = MlflowClient(uri())
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mistakes")
            found = self.client.get_experiment_by_name(name)
            if found is None:
                # explicit, for the default is relative to a folder that `dvc exp run --temp` throws
                # away
                place = (
                    (journal.root() / "mlartifacts").as_uri()
                    if uri().startswith("sqlite:")
                    else None
                )
                self.experiment = self.client.create_experiment(name, artifact_location=place)
            else:
                self.experiment = found.experiment_id

    def find(self, **tags: str) -> list[Run]:
        """Return the runs that have all these tags, newest first."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs: list[Run] = []
        token: str | None = None
        while token != "":
            page = self.client.search_runs(
                [self.experiment], wanted, order_by=["start_time DESC"], page_token=token
            )
            runs += page
            token = page.token or ""
        return runs

    def in_progress(self, key: str) -> Run | None:
        """Return the row whose results are being made under this progress key, if there is one."""
        found = [
            run
            for run in self.find(level="pipeline", progress=key)
            if "content_key" not in run.data.tags
        ]
        return _oldest(found) if found else None

    def create(self, name: str, tags: dict[str, str], dvc: dict[str, str], commit: str) -> Run:
        """Create a row of classifier ``name``."""
        tags = {"level": "pipeline", "classifier": name} | tags | _provenance(dvc, commit)
        experiment = dvc.get("DVC_EXP_NAME")
        title = f"{experiment}/{name}" if experiment else name
        return self.client.create_run(self.experiment, tags=tags, run_name=title)

    def adopt(self, row: Run, key: str) -> Run:
        """Give a row its content key; return it, or the row of a colleague who was quicker, which
        takes it in.
        """
        self.client.set_tag(row.info.run_id, "content_key", key)
        first = _oldest(self.find(level="pipeline", content_key=key))
        if first.info.run_id != row.info.run_id:
            self.merge(row, first)
        return self.client.get_run(first.info.run_id)

    def known(self, key: str) -> Run | None:
        """Return the row with this content key, if there is one."""
        found = self.find(level="pipeline", content_key=key)
        return _oldest(found) if found else None

    def merge(self, row: Run, into: Run) -> None:
        """Give the executions of ``row`` and their environments to another row, and delete it."""
        for child in self.find(**{"mlflow.parentRunId": row.info.run_id}):
            self.client.set_tag(child.info.run_id, "mlflow.parentRunId", into.info.run_id)
        for tag in row.data.tags.keys() - into.data.tags.keys():
            if tag.startswith("environment."):
                with tempfile.TemporaryDirectory() as folder:
                    file = f"environment/{tag.removeprefix('environment.')}.txt"
                    path = Path(self.client.download_artifacts(row.info.run_id, file, folder))
                    self._environment(into.info.run_id, tag, path.read_text(encoding="utf-8"))
        self.client.delete_run(row.info.run_id)

    def _environment(self, row_id: str, tag: str, packages: str) -> None:
        self.client.log_text(
            row_id, packages, f"environment/{tag.removeprefix('environment.')}.txt"
        )
        self.client.set_tag(row_id, tag, packages.partition("\n")[0])

    def ship(self, events: list[Event], run_id: str | None = None) -> str:
        """Tell MLflow the events of one execution, creating its run where there is none; return the
        run's id.

        Telling the same events twice changes nothing.
        """
        start = events[0]
        if run_id is None:
            found = self.find(level="stage", execution=start["id"])
            run_id = found[0].info.run_id if found else self._child(start)
        metrics = [
            Metric(key, value, event["time"], event.get("step", 0))
            for event in events
            for key, value in (event.get("values") or event.get("metrics") or {}).items()
        ]
        for first in range(0, len(metrics), 1000):  # MLflow's limit for a batch
            self.client.log_batch(run_id, metrics=metrics[first : first + 1000])
        if events[-1]["event"] == "end":
            if events[-1].get("outputs"):
                self.client.set_tag(run_id, "outputs", json.dumps(events[-1]["outputs"]))
            self.client.set_terminated(run_id, events[-1]["status"], events[-1]["time"])
        return run_id

    def _child(self, start: Event) -> str:
        first = next(iter(snapshot.configuration(snapshot.WorkTree()).classifiers))
        name, commit, packages = (
            start["name"] or first,
            start.get("commit", ""),
            start.get("environment", ""),
        )
        with journal.lock("parent"):
            row = self.in_progress(start["key"])
            row = row or self.create(name, {"progress": start["key"]}, start["dvc"], commit)
        made_with = environment.digest(packages)
        if f"environment.{made_with}" not in row.data.tags:
            self._environment(row.info.run_id, f"environment.{made_with}", packages)
        tags = {
            "level": "stage",
            "stage": start["stage"],
            "execution": start["id"],
            "mlflow.parentRunId": row.info.run_id,
            "host": start["host"],
            "pid": str(start["pid"]),
            "environment": made_with,
        } | _provenance(start["dvc"], commit)
        title = f"{start['stage']}@{start['name']}" if start["name"] else start["stage"]
        return str(self.client.create_run(self.experiment, start["time"], tags, title).info.run_id)


def _make_database(address: str) -> None:
    """Make a new SQLite file under another name first: what a kill or a full disk left half-made
    would never open.
    """
    path = Path(address.removeprefix("sqlite:///"))
    if not address.startswith("sqlite:///") or path.exists():
        return
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)
    os.replace(temporary, path)


def _oldest(runs: list[Run]) -> Run:
    return min(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def _provenance(dvc: dict[str, str], commit: str) -> dict[str, str]:
    """Return what fluent MLflow would tag by itself, and the DVC experiment."""
    tags = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "dvc repro",
        "mlflow.source.type": "LOCAL",
    }
    if commit:
        tags |= {"git.commit": commit, "mlflow.source.git.commit": commit}
    return tags | {key.lower().replace("dvc_", "dvc.", 1): value for key, value in dvc.items()}


@contextmanager
def tolerated() -> Iterator[None]:
    """Turn a failure of the store into a warning, or InputError with TRACKING_STRICT=1."""
    try:
        yield
    except InputError:
        raise
    except (
        Exception
    ) as error:  # MLflow, SQLAlchemy, requests and the file system each have their own
        reason = _open((str(error).splitlines() or [type(error).__name__])[0])[:200]
        if os.environ.get("TRACKING_STRICT") == "1":
            raise InputError(
                "MLflow", "tracking store", _open(uri()), f"a store that answers ({reason})"
            ) from None
        note = "the run is in the journal and will be told later"
        print(
            f"warning: MLflow at {_open(uri())} does not answer ({reason}); {note}",
            file=sys.stderr,
            flush=True,
        )


def _open(text: str) -> str:
    """Return ``text`` without the user and password that an address in it may hold."""
    return re.sub(r"(?<=://)[^@/\s]+@", "", text)


class Live:
    """Sends the curves of one execution while it runs; gives up after the first failure."""

    def __init__(self, execution: journal.Execution) -> None:
        self._execution = execution
        self._store: Store | None = None
        self._run_id: str | None = None
        self._sent = 0
        self._failed = False

    def ship(self) -> None:
        """Send what was written since the last call."""
        if self._failed:
            return
        self._failed = True  # until it went well
        with tolerated():
            self._store = self._store or Store()
            events = self._execution.events()
            new = [events[0], *events[max(1, self._sent) :]]
            self._run_id = self._store.ship(new, self._run_id)
            self._sent = len(events)
            self._failed = False


def ship_pending() -> None:
    """Send MLflow each execution in the journal that it lacks, killed ones included."""
    with tolerated():
        store = None
        for path, events in journal.pending():
            store = store or Store()
            store.ship(events)
            path.unlink()
