"""The rows of MLflow, rebuilt from files: of the working tree, or of a git revision."""

import functools
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

# isort: skip (mistakes.tracking sets MLflow's limits before it is imported)
from mlflow import MlflowClient

from mistakes.pipeline import environment, journal, mlflow_views, provenance, snapshot
from mistakes.pipeline.mlflow_store import Store, tolerated
from mistakes.pipeline.provenance import Provenance
from mistakes.pipeline.snapshot import Tree

from mlflow.entities import Metric, Param, Run, RunTag  # isort: skip

ARTIFACTS = (
    "report/report.html",
    "explore/explore.html",
    "hypotheses/{name}/hypotheses.md",
    "hypotheses/{name}/hypotheses.json",
    "hypotheses/{name}/controls.json",
    "adversarial/{name}/attacks.csv",
    "adversarial/{name}/checks.csv",
    "adaptive/{name}/adaptive.csv",
    "scores/{name}/sets.csv",
    "detection/{name}/detection.csv",
    "detection/{name}/macro.csv",
    "detection/{name}/groups.csv",
    "detection/{name}/heat.csv",
    "detection/{name}/differences.csv",
    "detection/{name}/mixtures.csv",
    "detection/{name}/false_alarms.csv",
    "detection/{name}/accepted.csv",
    "detection/{name}/flagged.csv",
    "detection/{name}/undetected.csv",
    "detection/{name}/shift.csv",
    "detection/{name}/roc.csv",
    "detection/{name}/histogram.csv",
    "detection/{name}/deciles.csv",
)
# makes figures, SVG by name, of the texts of tables by name
Draw = Callable[[dict[str, str]], dict[str, str]]
COMPARED = ("hypotheses", "attacks", "adaptive", "macro", "detection", "heat", "mixtures")


def complete(
    tree: Tree, dvc: dict[str, str] | None = None, draw: Draw | None = None
) -> tuple[list[str], list[str]]:
    """Complete the row of each classifier from the files of ``tree``: parameters, metrics,
    artifacts, what ran.

    Whatever stood in the row, it then says what the files say; doing it twice changes nothing.
    ``draw`` makes the figures that the row shows. Returns a sentence for each classifier that gets
    no row, and one for each artifact that could not be had. A store that does not answer is one
    warning.
    """
    without_row: list[str] = []
    lacking: list[str] = []
    with tolerated():
        store, first = Store(), ""
        mlflow_views.prepare(store.client, store.experiment)
        for name in snapshot.configuration(tree).classifiers:
            reason = snapshot.mismatch(tree, name)
            if reason:
                without_row.append(
                    f"no row for {name} from {tree.rev or 'the files here'}: {reason} (dvc repro)"
                )
                continue
            row = _row(store, tree, name, dvc or {})
            first = first or row.info.run_id
            lacking += _complete_one(store, row, tree, name, {row.info.run_id, first}, draw)
    return without_row, lacking


def _row(store: Store, tree: Tree, name: str, dvc: dict[str, str]) -> Run:
    """Return the row of what ``tree`` holds: the one that has it already, or the one in progress
    here, or a new one.
    """
    key, here = snapshot.key(tree, name), tree.rev is None
    progress = snapshot.progress_key(tree, name)
    with journal.lock("parent"):
        row = store.known(key) or _as_before(store, tree, name)
        made = store.in_progress(progress) if here else None
        if row and made:
            store.merge(made, row)
        row = row or made or store.create(name, {}, dvc, environment.commit() if here else "")
        return row if row.data.tags.get("content_key") == key else store.adopt(row, key)


def _as_before(store: Store, tree: Tree, name: str) -> Run | None:
    """Return the oldest row with these parameters and outputs, from when content keys were made of
    other things.
    """
    values, made = _parameters(tree, name), snapshot.own_outputs(tree, name)
    for row in reversed(store.find(level="pipeline", classifier=name)):
        same = all(values.get(key) == value for key, value in row.data.params.items())
        if row.data.params and same and made.items() <= provenance.of(row).outputs.items():
            return row
    return None


def _complete_one(
    store: Store, row: Run, tree: Tree, name: str, parents: set[str], draw: Draw | None
) -> list[str]:
    run_id, client = row.info.run_id, store.client
    lock = snapshot.locked(tree, name)
    missing = {k: v for k, v in _parameters(tree, name).items() if k not in row.data.params}
    for chunk in _chunks([Param(k, v) for k, v in missing.items()]):
        client.log_batch(run_id, params=chunk)
    wanted = {k: v for k, v in _metrics(tree, name, lock).items() if row.data.metrics.get(k) != v}
    for batch in _chunks([_latest(client, row, key, value) for key, value in wanted.items()]):
        client.log_batch(run_id, metrics=batch)
    came_from = _executions(store, row, lock, parents)
    tags = {provenance.TAG: came_from.text()} | _code(row, tree)
    for chunk in _chunks([RunTag(k, v) for k, v in tags.items() if row.data.tags.get(k) != v]):
        client.log_batch(run_id, tags=chunk)
    for tag in row.data.tags.keys() - tags.keys():
        if tag.startswith(provenance.FORMER):
            client.delete_tag(run_id, tag)
    texts = {"provenance.json": came_from.text(indent=2)}
    lost = _artifacts(client, row, tree, name, lock, texts, draw)
    mlflow_views.log_datasets(client, row, mlflow_views.datasets(tree, lock))
    if row.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED")
    lacking = [f"the row of {name} lacks {path}: {reason}" for path, reason in lost.items()]
    guard = Path("data/guard") / name / "model"
    if tree.rev is None and guard.is_dir():  # of a revision only its tables are fetched
        digest = snapshot.outputs(lock)[guard.as_posix()]
        lacking += mlflow_views.log_guard(client, row, name, guard, digest)
    return lacking


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), 100):  # MLflow's limit for parameters and tags
        yield items[start : start + 100]


def _latest(client: MlflowClient, row: Run, key: str, value: float) -> Metric:
    """Return the metric such that it counts: to MLflow the latest is the largest by step, then
    time, then value.
    """
    recorded = client.get_metric_history(row.info.run_id, key) if key in row.data.metrics else []
    if not recorded:
        return Metric(key, value, row.info.start_time, 0)
    step, when = max((metric.step, metric.timestamp) for metric in recorded)
    return Metric(key, value, when + 1, step)


def _code(row: Run, tree: Tree) -> dict[str, str]:
    """Return the tags of code and commit: of the newest code that gave these results, where the
    code differs.
    """
    code = snapshot.code(tree)
    if tree.rev:
        return {
            "code": code,
            "git.commit": tree.rev,
            "mlflow.source.git.commit": tree.rev,
            "git.changed": "nothing",
        }
    if row.data.tags.get("code") == code and "git.changed" in row.data.tags:
        return {"code": code}
    commit = environment.commit()
    changed = "\n".join(environment.changed(commit))[:5000] or "nothing"
    known = {"git.commit": commit, "mlflow.source.git.commit": commit} if commit else {}
    return {"code": code, "git.changed": changed} | known


def _executions(store: Store, row: Run, lock: dict[str, Any], parents: set[str]) -> Provenance:
    """Return which run made the outputs of each stage.

    parents : the rows whose executions are this row's: it, and that of the first classifier for the
    stages of all.
    """
    children = [
        child
        for parent in sorted(parents)
        for child in store.find(**{"level": "stage", "mlflow.parentRunId": parent})
        if child.info.status == "FINISHED"
    ]
    before, ran_here, cached = provenance.of(row), {}, {}
    rows = functools.cache(lambda: store.find(level="pipeline"))
    for stage, entry in lock.items():
        made = snapshot.outputs({stage: entry}).items()
        ran = [
            child.info.run_id
            for child in children
            if child.data.tags["stage"] == stage
            and made <= json.loads(child.data.tags.get("outputs", "{}")).items()
        ]
        if not made:  # track makes nothing, so it never comes from a cache
            continue
        if ran or stage in before.ran:
            ran_here[stage] = ran[0] if ran else before.ran[stage]
        else:
            cached[stage] = before.cached.get(stage) or _maker(rows(), stage, dict(made))
    return Provenance(snapshot.outputs(lock), ran_here, cached)


def _maker(rows: list[Run], stage: str, made: dict[str, str]) -> str:
    """Return the id of the run that first made these outputs of ``stage``, by the ``rows``, newest
    first, that have them.
    """
    for row in reversed(rows):
        known = provenance.of(row)
        if stage in known.ran and made.items() <= known.outputs.items():
            return known.ran[stage]
    return "unknown"


def _parameters(tree: Tree, name: str) -> dict[str, str]:
    """Return the parameters as ``section.key``; the classifier's own as ``classifier.key``,
    whatever its name.
    """
    values = snapshot.configuration(tree).model_dump()
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
        text = tree.read(f"data/{stage}/{name}/metrics.json") or tree.read(
            f"data/{stage}/metrics.json"
        )
        for key, value in json.loads(text or b"{}").items():
            if isinstance(value, int | float):
                found[f"{stage}.{key}"] = float(value)
    return found


def _artifacts(
    client: MlflowClient,
    row: Run,
    tree: Tree,
    name: str,
    lock: dict[str, Any],
    texts: dict[str, str],
    draw: Draw | None,
) -> dict[str, str]:
    """Upload ``texts`` by their names, report, tables and figures, unless the row has them; return
    the reason for each that could not be had.
    """
    made = snapshot.outputs(lock)
    texts = texts | {"params.yaml": (tree.read("params.yaml") or b"").decode()}
    # DVC adds the entry of stage track when it has ended
    stages = snapshot.mapping(tree, "dvc.lock")["stages"]
    kept = {
        "schema": "2.0",
        "stages": {stage: entry for stage, entry in stages.items() if stage != "track"},
    }
    texts["dvc.lock"] = yaml.safe_dump(kept, sort_keys=False)
    paths = [path for pattern in ARTIFACTS if (path := f"data/{pattern.format(name=name)}") in made]
    known = [*texts.values(), *((path, made[path]) for path in paths), COMPARED, draw is None]
    digest = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
    if row.data.tags.get("artifacts") == digest:
        return {}
    lost = {}
    for path in paths:
        try:
            texts[path.removeprefix("data/").replace(f"/{name}/", "/")] = _text(
                tree, path, made[path]
            )
        except Exception as error:  # each kind of remote has its own
            lost[path] = (str(error).splitlines() or [type(error).__name__])[0]
    tables = {Path(path).stem: text for path, text in texts.items()}
    shown = {f"tables/{stem}.json": tables[stem] for stem in COMPARED if stem in tables}
    texts |= {path: mlflow_views.table(text) for path, text in shown.items()}
    drawn = draw(tables) if draw else {}
    texts |= {f"figures/{figure}.svg": text for figure, text in drawn.items()}
    for path, text in texts.items():
        client.log_text(row.info.run_id, text, path)
    listed = [{"path": path, "type": "table"} for path in shown]
    client.set_tag(row.info.run_id, "mlflow.loggedArtifacts", json.dumps(listed))
    if not lost:
        client.set_tag(row.info.run_id, "artifacts", digest)
    return lost


def _text(tree: Tree, path: str, md5: str) -> str:
    """Return the content of an output: from the tree, or from DVC's cache or remote, wherever they
    are.
    """
    found = tree.read(path)
    if found is None:
        files, prefix = _dvc(tree.rev)
        found = files.read_bytes(prefix + path)
    if hashlib.md5(found, usedforsecurity=False).hexdigest() != md5:
        raise ValueError("the file is not what dvc.lock says")
    return found.decode()


@functools.cache
def _dvc(rev: str | None) -> tuple[Any, str]:
    """Return the files that DVC knows of a revision, and where this project lies among them."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

    # a revision is seen from the root of the git repository, where the project may be a folder
    command = ["git", "rev-parse", "--show-prefix"]
    prefix = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if rev
        else ""
    )
    return DVCFileSystem(rev=rev, subrepos=True), prefix
