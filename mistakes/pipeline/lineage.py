"""From any row of MLflow to commit, hashes and environment, and from any artifact file to the row
that made it.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import yaml

# isort: skip (mistakes.tracking sets MLflow's limits before it is imported)
from mlflow.entities import Run

from mistakes.errors import InputError
from mistakes.pipeline import environment, provenance, snapshot
from mistakes.pipeline.mlflow_store import Store

from mlflow.exceptions import MlflowException  # isort: skip


def describe(what: str) -> str:
    """Return the lineage of ``what``: a run's id, its name (the newest of that name), or a file or
    folder of data.

    Raises InputError where the store has no such run, or no row that made such a file.
    """
    store = Store()
    lines = []
    if Path(what).exists():
        md5, path = md5_of_output(Path(what))
        run = _maker(store, md5, path)
        lines += [_line("artifact", f"{path} (md5 {md5})"), _line("made by", _title(run))]
    else:
        run = _find(store, what)
        if run.data.tags.get("level") == "stage":
            lines.append(_line("execution", _title(run)))
    row = store.client.get_run(run.data.tags.get("mlflow.parentRunId", run.info.run_id))
    lines += [_line("row", _title(row)), *_commit(row)]
    lines += _environments(
        store, _executions(store, row) if run.info.run_id == row.info.run_id else [run]
    )
    lines += _hashes(row)
    return "\n".join(lines) + "\n"


def _line(key: str, value: str) -> str:
    return f"{key:<12} {value}"


def _title(run: Run) -> str:
    when = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    host = f", on {run.data.tags['host']}" if "host" in run.data.tags else ""
    return (
        f"{run.info.run_name} ({run.info.run_id}), {run.info.status}, {when:%Y-%m-%d %H:%M}"
        f" UTC{host}"
    )


def _find(store: Store, what: str) -> Run:
    try:
        return store.client.get_run(what)
    except MlflowException:
        named = [run for run in store.find() if run.info.run_name == what]
    if not named:
        expected = "the id or name of a run in the MLflow store, or a file"
        raise InputError("mistakes show", "run", what, expected)
    return named[0]


def md5_of_output(path: Path) -> tuple[str, str]:
    """Return what dvc.lock calls the output that ``path`` is or lies in: its md5 now, and its path.

    A file outside of the pipeline's folders is taken by itself, so a copy of an artifact is known
    by its content.
    """
    lock = yaml.safe_load(snapshot.WorkTree().read("dvc.lock") or b"") or {"stages": {}}
    outs = {
        Path(out["path"]).resolve(): out["path"]
        for e in lock["stages"].values()
        for out in e.get("outs", [])
    }
    for place in (path.resolve(), *path.resolve().parents):
        if place in outs:
            return snapshot.md5(place), outs[place]
    return snapshot.md5(path), path.as_posix()


def _maker(store: Store, md5: str, path: str) -> Run:
    """Return the execution that made the output with this md5, or the oldest row that has it where
    that is unknown.
    """
    having = [
        (row, known)
        for row in store.find(level="pipeline")
        for known, value in provenance.of(row).outputs.items()
        if value == md5
    ]
    if not having:
        raise InputError(path, "md5", md5, "that of an output of a row in the MLflow store")
    here = [(row, known) for row, known in having if known == path] or having
    row, known = min(here, key=lambda pair: pair[0].info.start_time)
    run_id = provenance.of(row).maker(known.split("/")[1])
    return row if run_id == "unknown" else store.client.get_run(run_id)


def _environments(store: Store, executions: list[Run]) -> Iterator[str]:
    """Yield the packages that the executions ran with, and which of them differ here."""
    known = {
        run.data.tags["environment"]: run.data.tags["mlflow.parentRunId"]
        for run in executions
        if "environment" in run.data.tags
    }
    if not known:
        yield _line(
            "environment",
            "unknown to this store; constraints.txt of the commit says what was tested",
        )
    here = environment.packages().splitlines()
    for digest, row in known.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = store.client.download_artifacts(row, f"environment/{digest}.txt", folder)
            # an MLflow store on disk knows its artifacts by the folder in which they once lay
            except MlflowException:
                yield _line(
                    "environment",
                    f"environment/{digest}.txt of run {row} is lost (was the project moved?)",
                )
                continue
            there = Path(path).read_text().splitlines()
        yield _line(
            "environment", f"{there[0].removeprefix('# ')}; environment/{digest}.txt of run {row}"
        )
        differs = sorted(set(there) - set(here))
        yield _line("", f"differs here: {', '.join(differs)}" if differs else "the same as here")


def _executions(store: Store, row: Run) -> list[Run]:
    """Return the executions that made the row's results, those of other rows included."""
    known = provenance.of(row)
    ids = {*known.ran.values(), *known.cached.values()} - {"unknown"}
    return [store.client.get_run(run_id) for run_id in sorted(ids)]


def _commit(row: Run) -> Iterator[str]:
    """Yield the commit that holds the row's code, parameters and results, and the commands that
    bring it back.
    """
    if "content_key" not in row.data.tags:
        yield _line(
            "commit",
            f"no results yet; they began from {row.data.tags.get('git.commit', 'unknown')}",
        )
        return
    exact, other = _commits(row)
    if exact or other:
        found = exact or other
        yield _line(
            "commit",
            found if exact else f"{found} (the same results; but its code or parameters differ)",
        )
        yield _line(
            "get it back",
            f"git checkout {found} && dvc checkout    # dvc pull, where the cache lacks it",
        )
        return
    experiment = row.data.tags.get("dvc.exp_name")
    base = row.data.tags.get("git.commit", "unknown")
    yield _line("commit", f"none here holds exactly this; it began from {base}")
    yield _line("", "changed: " + row.data.tags.get("git.changed", "unknown").replace("\n", " "))
    if experiment:
        yield _line(
            "get it back", f"dvc exp pull origin {experiment} && dvc exp apply {experiment}"
        )
    else:
        there = "params.yaml and dvc.lock are artifacts of the row"
        yield _line("get it back", f"git fetch, and ask again; or git checkout {base}: {there}")


def _commits(row: Run) -> tuple[str, str]:
    """Return the commit or DVC experiment with the row's results and code, and one with its
    results.
    """
    log = subprocess.run(
        ["git", "log", "--all", "--format=%H", "--", "dvc.lock"],
        capture_output=True,
        text=True,
        check=False,
    )
    name = row.data.tags["classifier"]
    wanted, other = provenance.of(row).outputs, ""
    own = {path: md5 for path, md5 in wanted.items() if path.split("/")[1] not in snapshot.TOGETHER}
    for rev in dict.fromkeys([row.data.tags.get("git.commit", ""), *log.stdout.split()]):
        try:
            tree = snapshot.GitTree(rev)
            if snapshot.own_outputs(tree, name) != own:
                continue
            other = other or tree.rev
            same = snapshot.key(tree, name) == row.data.tags["content_key"]
            same &= snapshot.outputs(snapshot.locked(tree, name)) == wanted
            if same and snapshot.code(tree) == row.data.tags.get("code"):
                return tree.rev, other
        except InputError:  # a commit that is not here, or one whose parameters are not today's
            continue
    return "", other


def _hashes(row: Run) -> Iterator[str]:
    """Yield for each output its hash, and whether the row's stage made it or DVC had it from an
    earlier run.
    """
    known = provenance.of(row)
    for path, md5 in sorted(known.outputs.items()):
        stage = path.split("/")[1]
        by = f"{'' if stage in known.ran else 'cached, '}run {known.maker(stage)}"
        yield _line(stage, f"{md5:<36} {path}  ({by})")
