"""The rows of MLflow, rebuilt from files: of the working tree, or of a git revision."""

import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import yaml

from mistakes import content, environment, journal
from mistakes.content import Tree
from mistakes.tracking import Store, tolerated

from mlflow import MlflowClient  # isort: skip (mistakes.tracking sets MLflow's limits before it is imported)
from mlflow.entities import Metric, Param, Run, RunTag  # isort: skip

ARTIFACTS = (
    "report/report.html",
    "hypotheses/{name}/hypotheses.md",
    "hypotheses/{name}/hypotheses.json",
    "hypotheses/{name}/controls.json",
    "adaptive/{name}/adaptive.csv",
    "detection/{name}/detection.csv",
    "detection/{name}/macro.csv",
    "detection/{name}/heat.csv",
    "detection/{name}/differences.csv",
    "detection/{name}/mixtures.csv",
    "detection/{name}/false_alarms.csv",
    "detection/{name}/flagged.csv",
    "detection/{name}/undetected.csv",
    "detection/{name}/shift.csv",
    "detection/{name}/roc.csv",
    "detection/{name}/histogram.csv",
    "detection/{name}/deciles.csv",
)


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
    run = store.parent(name, key, dvc, environment.commit() if tree.rev is None else "")
    run_id, client = run.info.run_id, store.client
    lock = locked_stages(tree, name)
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
        tags |= {"git.commit": tree.rev, "git.changed": "nothing"}
    elif "git.changed" not in run.data.tags:
        tags["git.changed"] = "\n".join(environment.changed(run.data.tags.get("git.commit", "")))[:5000] or "nothing"
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


def locked_stages(tree: Tree, name: str) -> dict[str, Any]:
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
