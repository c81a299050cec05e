"""MLflow as a view that can be rebuilt: DVC's files and the journal are the truth.

One row (parent run, ``level=pipeline``) is one classifier in one configuration, found by its content key; each
execution of a stage is a child run (``level=stage``). Nothing here decides a result: a store that does not answer is
one warning (an error with TRACKING_STRICT=1), and the rows are completed later.
"""

import functools
import getpass
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own defaults hang for 4 minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from mistakes import content, journal
from mistakes.content import Tree
from mistakes.errors import InputError

Event = journal.Event
ARTIFACTS = (
    "report/report.html",
    "hypotheses/{name}/hypotheses.md",
    "hypotheses/{name}/hypotheses.json",
    "detection/{name}/detection.csv",
    "detection/{name}/macro.csv",
    "detection/{name}/false_alarms.csv",
    "detection/{name}/roc.csv",
    "detection/{name}/histogram.csv",
    "detection/{name}/deciles.csv",
)


def uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the SQLite file in the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{journal.root() / 'mlflow.db'}"


class Store:
    """The MLflow experiment that this project writes to."""

    def __init__(self) -> None:
        """Open the store; a new one is made under a lock, since several processes making it at once break it."""
        with journal.lock("mlflow"):
            self.client = MlflowClient(uri())
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mistakes")
            found = self.client.get_experiment_by_name(name)
            if found is None:
                # explicit, for the default is relative to a folder that `dvc exp run --temp` throws away
                place = (journal.root() / "mlartifacts").as_uri() if uri().startswith("sqlite:") else None
                self.experiment = self.client.create_experiment(name, artifact_location=place)
            else:
                self.experiment = found.experiment_id

    def find(self, **tags: str) -> list[Run]:
        """Return the runs that have all these tags, newest first."""
        wanted = " and ".join(f"tags.`{key.replace('__', '.')}` = '{value}'" for key, value in tags.items())
        return list(self.client.search_runs([self.experiment], wanted, order_by=["start_time DESC"]))

    def parent(self, name: str, key: str, dvc: dict[str, str]) -> Run:
        """Find or create the row of classifier ``name`` in the configuration ``key``."""
        with journal.lock("parent"):
            found = self.find(level="pipeline", content_key=key)
            if found:
                return found[0]
            tags = {"level": "pipeline", "classifier": name, "content_key": key} | _provenance(dvc)
            experiment = dvc.get("DVC_EXP_NAME")
            title = f"{experiment}/{name}" if experiment else name
            return self.client.create_run(self.experiment, tags=tags, run_name=title)

    def ship(self, events: list[Event], run_id: str | None = None) -> str:
        """Tell MLflow the events of one execution, creating its run where there is none; return the run's id.

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
            self.client.set_terminated(run_id, events[-1]["status"], events[-1]["time"])
        return run_id

    def _child(self, start: Event) -> str:
        first = next(iter(content.configuration(content.WorkTree()).classifiers))
        parent = self.parent(start["name"] or first, start["key"], start["dvc"])
        tags = {
            "level": "stage",
            "stage": start["stage"],
            "execution": start["id"],
            "content_key": start["key"],
            "mlflow.parentRunId": parent.info.run_id,
            "host": start["host"],
            "pid": str(start["pid"]),
        } | _provenance(start["dvc"])
        title = f"{start['stage']}@{start['name']}" if start["name"] else start["stage"]
        return str(self.client.create_run(self.experiment, start["time"], tags, title).info.run_id)


def _provenance(dvc: dict[str, str]) -> dict[str, str]:
    """Return what fluent MLflow would tag by itself, and the DVC experiment."""
    tags = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL"}
    return tags | {key.lower().replace("dvc_", "dvc.", 1): value for key, value in dvc.items()}


@contextmanager
def tolerated() -> Iterator[None]:
    """Turn any failure of the store into one warning, or into an InputError with TRACKING_STRICT=1."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy, requests and the file system each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if os.environ.get("TRACKING_STRICT") == "1":
            raise InputError("MLflow", "tracking store", uri(), f"a store that answers ({reason})") from None
        note = "the run is in the journal and will be told later"
        print(f"warning: MLflow at {uri()} does not answer ({reason}); {note}", file=sys.stderr, flush=True)


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
    """Tell MLflow every execution in the journal that it has not been told, killed ones included."""
    with tolerated():
        store = None
        for path, events in journal.pending():
            store = store or Store()
            store.ship(events)
            path.unlink()


def complete(tree: Tree, dvc: dict[str, str] | None = None) -> None:
    """Complete the row of each classifier from the files of ``tree``: parameters, metrics, artifacts, what ran.

    Doing it twice changes nothing. A store that does not answer is one warning.
    """
    with tolerated():
        store = Store()
        names = list(content.configuration(tree).classifiers)
        for name in names:
            _complete_one(store, tree, name, names[0], dvc or {})


def _complete_one(store: Store, tree: Tree, name: str, first: str, dvc: dict[str, str]) -> None:
    key = content.key(tree, name)
    run = store.parent(name, key, dvc)
    run_id, client = run.info.run_id, store.client
    lock = _locked_stages(tree, name)
    missing = {k: v for k, v in _parameters(tree, name).items() if k not in run.data.params}
    for chunk in _chunks([Param(k, v) for k, v in missing.items()]):
        client.log_batch(run_id, params=chunk)
    found = _metrics(tree, name, lock)
    now = run.info.start_time
    for batch in _chunks([Metric(k, v, now, 0) for k, v in found.items() if run.data.metrics.get(k) != v]):
        client.log_batch(run_id, metrics=batch)
    tags = _executions(store, lock, {key, content.key(tree, first)})
    tags |= {f"md5.{out['path']}": out.get("md5", "") for entry in lock.values() for out in entry.get("outs", [])}
    if tree.rev:
        tags["git.commit"] = tree.rev
    for chunk in _chunks([RunTag(k, v) for k, v in tags.items() if run.data.tags.get(k) != v]):
        client.log_batch(run_id, tags=chunk)
    for tag in run.data.tags:
        stage = tag.removeprefix("cached.")
        if tag.startswith("cached.") and f"ran.{stage}" in tags:
            client.delete_tag(run_id, tag)
    _artifacts(client, run, tree, name, lock)
    if run.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED")


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), 100):  # MLflow's limit for parameters and tags
        yield items[start : start + 100]


def _locked_stages(tree: Tree, name: str) -> dict[str, Any]:
    """Return dvc.lock's entries, by stage, of the stages in today's dvc.yaml that ``name`` has a part in."""
    lock = yaml.safe_load(tree.read("dvc.lock") or b"") or {}
    today = yaml.safe_load(tree.read("dvc.yaml") or b"")["stages"]
    wanted = {stage: f"{stage}@{name}" if "foreach" in definition else stage for stage, definition in today.items()}
    return {stage: lock["stages"][entry] for stage, entry in wanted.items() if entry in lock.get("stages", {})}


def stage_key(entry: dict[str, Any]) -> str:
    """Return what identifies an execution's result: a hash of its command, dependencies and parameters."""
    deps = sorted((dep["path"], dep.get("md5")) for dep in entry.get("deps", []))
    made = json.dumps([entry["cmd"], deps, entry.get("params")], sort_keys=True)
    return hashlib.sha256(made.encode()).hexdigest()[:16]


def _executions(store: Store, lock: dict[str, Any], keys: set[str]) -> dict[str, str]:
    """Return ran.STAGE or cached.STAGE for each stage, with the id of the run that made the result."""
    ran: dict[str, Run] = {}
    for key in keys:
        for child in store.find(level="stage", content_key=key):
            if child.info.status == "FINISHED":
                ran.setdefault(child.data.tags["stage"], child)
    tags = {}
    for stage, entry in lock.items():
        made = stage_key(entry)
        if stage in ran:
            tags[f"ran.{stage}"] = ran[stage].info.run_id
            if ran[stage].data.tags.get("stage_key") != made:
                store.client.set_tag(ran[stage].info.run_id, "stage_key", made)
        else:
            earlier = store.find(level="stage", stage_key=made)
            tags[f"cached.{stage}"] = earlier[0].info.run_id if earlier else "unknown"
    tags.pop("cached.track", None)  # it makes nothing, so it never comes from a cache
    return tags


def _parameters(tree: Tree, name: str) -> dict[str, str]:
    """Return the parameters as ``section.key``; the classifier's own as ``classifier.key``, whatever its name."""
    values = content.configuration(tree).model_dump()
    values["classifier"] = values.pop("classifiers")[name]
    flat: dict[str, str] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                flatten(f"{prefix}.{key}" if prefix else key, part)
        else:
            flat[prefix] = str(value)

    flatten("", values)
    return flat


def _metrics(tree: Tree, name: str, lock: dict[str, Any]) -> dict[str, float]:
    """Return every ``STAGE.METRIC``, of stages that DVC skipped too."""
    found = {}
    for stage in lock:
        text = tree.read(f"data/{stage}/{name}/metrics.json") or tree.read(f"data/{stage}/metrics.json")
        for key, value in json.loads(text or b"{}").items():
            if isinstance(value, int | float):
                found[f"{stage}.{key}"] = float(value)
    return found


def _artifacts(client: MlflowClient, run: Run, tree: Tree, name: str, lock: dict[str, Any]) -> None:
    """Upload report and tables, unless the row has them: from the working tree, or for a revision from DVC's cache."""
    made = {out["path"]: out.get("md5", "") for entry in lock.values() for out in entry.get("outs", [])}
    paths = [f"data/{pattern.format(name=name)}" for pattern in ARTIFACTS]
    digest = hashlib.sha256(repr([(path, made.get(path)) for path in paths]).encode()).hexdigest()[:16]
    if run.data.tags.get("artifacts") == digest:
        return
    whole = True
    for path in paths:
        text = tree.read(path) or _cached(made.get(path, ""))
        whole &= text is not None
        if text is not None:
            client.log_text(run.info.run_id, text.decode(), path.removeprefix("data/").replace(f"/{name}/", "/"))
    for path in ("params.yaml", "dvc.lock"):
        client.log_text(run.info.run_id, (tree.read(path) or b"").decode(), path)
    if whole:
        client.set_tag(run.info.run_id, "artifacts", digest)


@functools.cache
def _cached(md5: str) -> bytes | None:
    path = journal.root() / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    return path.read_bytes() if len(md5) == 32 and path.is_file() else None
