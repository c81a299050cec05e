"""From any row of MLflow to commit, hashes and environment, and from any artifact to the row that
made it.
"""

import contextlib
import re
import shutil
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout, duplicate
from commands import ROOT

from mistakes.pipeline import lineage, provenance, snapshot

TABLE = "data/scores/smoke/scores.parquet"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy, with a DVC experiment ``wide`` in which only detection and what follows ran."""
    copy = duplicate(reproduced, tmp_path_factory.mktemp("lab") / "lab")
    copy.run("dvc", "exp", "run", "--name", "wide", "-S", "detection.alpha=0.1")
    return copy


def first_row(checkout: Checkout):
    """The row of what is committed."""
    key = snapshot.key(snapshot.GitTree("HEAD", checkout.folder), "smoke")
    (row,) = checkout.runs(level="pipeline", content_key=key)
    return row


def show(checkout: Checkout, what: str) -> str:
    """What `mistakes show` prints, without the time of a new process to import MLflow."""
    with contextlib.chdir(checkout.folder):
        return lineage.describe(what)


def test_a_row_leads_to_its_commit_and_back_to_every_byte(lab: Checkout, tmp_path: Path) -> None:
    row = first_row(lab)
    shown = show(lab, row.info.run_id)
    results = lab.run("git", "rev-parse", "HEAD").stdout.strip()
    assert re.search(rf"^commit +{results}$", shown, re.MULTILINE)
    lock = yaml.safe_load(lab.run("git", "show", f"{results}:dvc.lock").stdout)
    outs = {
        out["path"]: out["md5"]
        for entry in lock["stages"].values()
        for out in entry.get("outs", [])
    }
    assert len(outs) > 30
    for path, md5 in outs.items():
        assert re.search(rf" {re.escape(md5)} +{re.escape(path)} ", shown), path

    other = duplicate(lab, tmp_path / "other")
    shutil.rmtree(other.folder / "data")
    other.set("alpha: 0.05", "alpha: 0.3")
    (command,) = re.findall(r"^get it back +(git checkout .*?)(?: +#.*)?$", shown, re.MULTILINE)
    other.run("bash", "-euc", f"git stash --quiet; {command}")
    assert other.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert (
        outs[TABLE]
        == subprocess.run(
            ["md5sum", other.folder / TABLE], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    )


def test_a_row_leads_to_the_environment_which_no_hashed_file_holds(lab: Checkout) -> None:
    row = first_row(lab)
    shown = show(lab, row.info.run_id)
    assert "the same as here" in shown
    (digest,) = re.findall(r"environment/(\w+)\.txt", shown)
    listed = next(lab.folder.rglob(f"{row.info.run_id}/artifacts/environment/{digest}.txt"))
    assert {f"torch=={version('torch')}", f"dvc=={version('dvc')}"} <= set(
        listed.read_text().splitlines()
    )
    for run in lab.runs(level="stage"):
        assert run.data.tags["environment"] == digest
        assert len(run.data.tags["git.commit"]) == 40
    lock = yaml.safe_load((lab.folder / "dvc.lock").read_text())
    for path in {out["path"] for entry in lock["stages"].values() for out in entry.get("outs", [])}:
        for file in [lab.folder / path, *(lab.folder / path).rglob("*")]:
            if file.is_file():
                content = file.read_bytes()
                assert digest.encode() not in content
                assert f'"{socket.gethostname()}"'.encode() not in content


def test_another_environment_is_told_by_package(lab: Checkout, tmp_path: Path) -> None:
    (tmp_path / "torch-0.0.1.dist-info").mkdir()
    done = lab.run(
        "mistakes",
        "show",
        first_row(lab).info.run_id,
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )
    assert f"differs here: torch=={version('torch')}" in done.stdout


@pytest.mark.parametrize("way", ["path", "absolute", "copy", "folder", "inside"])
def test_an_artifact_leads_to_the_execution_that_made_it(
    lab: Checkout, tmp_path: Path, way: str
) -> None:
    row = first_row(lab)
    what, stage = {
        "path": (TABLE, "scores"),
        "absolute": (str(lab.folder / TABLE), "scores"),
        "copy": (shutil.copy(lab.folder / TABLE, tmp_path / "from a colleague.parquet"), "scores"),
        "folder": ("data/features/smoke/fit", "features"),
        "inside": ("data/features/smoke/fit/labels.npy", "features"),
    }[way]
    shown = show(lab, str(what))
    assert re.search(
        rf"^made by +{stage}@smoke \({provenance.of(row).ran[stage]}\), FINISHED",
        shown,
        re.MULTILINE,
    )
    assert re.search(rf"^row +smoke \({row.info.run_id}\)", shown, re.MULTILINE)


def test_an_experiment_leads_to_its_own_commit_and_its_cached_stages_to_the_first_row(
    lab: Checkout,
) -> None:
    shown = show(lab, "wide/smoke")
    (ref,) = lab.run(
        "git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/wide"
    ).stdout.split()
    assert re.search(rf"^commit +{ref}$", shown, re.MULTILINE)
    known = provenance.of(first_row(lab))
    assert re.search(
        rf"{known.outputs[TABLE]} +{TABLE}  \(cached, run {known.ran['scores']}\)", shown
    )
    assert not re.search(r"data/detection/smoke/metrics.json  \(cached", shown)


def test_results_that_are_in_no_commit_are_said_to_be_so(lab: Checkout, tmp_path: Path) -> None:
    other = duplicate(lab, tmp_path / "other")
    start = other.run("git", "rev-parse", "HEAD").stdout.strip()
    other.run("dvc", "exp", "remove", "wide")
    shown = show(other, "wide/smoke")
    assert re.search(
        rf"^commit +none here holds exactly this; it began from {start}$", shown, re.MULTILINE
    )
    assert re.search(
        r"^ +changed: .*data/detection/smoke/metrics.json.* params.yaml", shown, re.MULTILINE
    )
    other.run("git", "commit", "--quiet", "--all", "--message=wide")
    head = other.run("git", "rev-parse", "HEAD").stdout.strip()
    assert re.search(rf"^commit +{head}$", show(other, "wide/smoke"), re.MULTILINE)


def test_what_no_row_made_is_refused_in_one_line(lab: Checkout) -> None:
    for what, reason in {"nobody": "run is 'nobody'", "params.yaml": "params.yaml: md5 is"}.items():
        done = lab.run("mistakes", "show", what, check=False)
        assert done.returncode != 0
        assert done.stderr.startswith("error: ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
