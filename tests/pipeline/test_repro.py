"""The real `dvc repro` in a real clone: caching, experiments, queue, an absent server."""

import hashlib
import json
import re
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkouts import Checkout, clone, duplicate

from mistakes.pipeline import provenance

STAGES = (
    "raw",
    "images",
    "classifier",
    "features",
    "flow",
    "detectors",
    "adversarial",
    "ood",
    "scores",
    "hypotheses",
    "detection",
    "guard",
    "report",
)


def test_repro_gives_report_metrics_and_a_complete_row(reproduced: Checkout) -> None:
    page = (reproduced.folder / "data/report/report.html").read_text()
    assert "Classifier “smoke”" in page
    assert not re.findall(r"""(?:src|href)=["']http""", page)  # self-contained: nothing is loaded
    (row,) = reproduced.runs(level="pipeline")
    assert row.info.status == "FINISHED"
    for stage in set(STAGES) - {"raw", "features", "report"}:
        metrics = next(reproduced.folder.glob(f"data/{stage}/**/metrics.json"))
        for key, value in json.loads(metrics.read_text()).items():
            assert row.data.metrics[f"{stage}.{key}"] == pytest.approx(float(value)), (stage, key)
    assert row.data.params["flow.kind"] == "maf"
    assert row.data.params["classifier.width"] == "16"
    assert set(STAGES) <= set(provenance.of(row).ran)
    assert provenance.of(row).outputs["data/scores/smoke/scores.parquet"]
    # what a row shows beside MLflow's own tags
    assert len([tag for tag in row.data.tags if not tag.startswith("mlflow.")]) <= 10


def test_children_have_live_curves(reproduced: Checkout) -> None:
    (flow,) = reproduced.runs(stage="flow")
    (classifier,) = reproduced.runs(stage="classifier")
    assert flow.info.status == classifier.info.status == "FINISHED"
    assert {"loss", "nll_val", "seconds", "peak_memory_mb"} <= set(flow.data.metrics)
    assert {"loss", "accuracy_val"} <= set(classifier.data.metrics)


def test_second_repro_does_nothing(reproduced: Checkout) -> None:
    before = len(reproduced.runs(level="stage"))
    done = reproduced.run("dvc", "repro")
    assert "Running stage" not in done.stdout
    assert "Data and pipelines are up to date." in done.stdout
    assert len(reproduced.runs(level="stage")) == before


@pytest.mark.slow
def test_a_fresh_clone_that_computes_the_committed_results_has_a_complete_row(
    reproduced: Checkout, tmp_path
) -> None:
    """DVC skips track there: dvc.lock, which git brought, has seen this very report."""
    fresh = duplicate(reproduced, tmp_path / "fresh", "mlflow.db", "mlartifacts")
    report = fresh.folder / "data/report/report.html"
    md5 = hashlib.md5(report.read_bytes()).hexdigest()
    (fresh.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    report.unlink()
    done = fresh.run("dvc", "repro", "--no-run-cache")
    assert "Running stage 'report'" in done.stdout
    assert "Running stage 'track'" not in done.stdout
    (row,) = fresh.runs(level="pipeline")
    assert row.info.status == "FINISHED"
    assert provenance.of(row).ran["report"]
    assert row.data.metrics["detection.macro.guard"]
    assert fresh.run("git", "status", "--porcelain").stdout == ""


def test_tracking_twice_changes_nothing(reproduced: Checkout) -> None:
    before = [(r.info.run_id, r.data.to_dictionary()) for r in reproduced.runs()]
    reproduced.run("python", "-m", "stages.track", DVC_ROOT=str(reproduced.folder))
    assert [(r.info.run_id, r.data.to_dictionary()) for r in reproduced.runs()] == before


@pytest.mark.slow
def test_cached_stages_are_complete_in_a_new_row(reproduced: Checkout) -> None:
    reproduced.set("alpha: 0.05", "alpha: 0.1")
    try:
        assert "until dvc repro has run" in reproduced.run("mistakes", "results").stderr
        done = reproduced.run("dvc", "repro")
        assert "Running stage 'detection@smoke'" in done.stdout
        assert "Running stage 'flow@smoke'" not in done.stdout
        assert reproduced.run("mistakes", "results").stderr == ""
        (row,) = [
            r
            for r in reproduced.runs(level="pipeline")
            if r.data.params["detection.alpha"] == "0.1"
        ]
        assert provenance.of(row).ran["detection"]
        flow, *_ = reproduced.runs(stage="flow")
        assert provenance.of(row).cached["flow"] in {
            r.info.run_id for r in reproduced.runs(stage="flow")
        }, flow.info.run_id
        assert row.data.metrics["flow.nll_val"] == pytest.approx(
            reproduced.runs(level="pipeline")[-1].data.metrics["flow.nll_val"]
        )
    finally:
        reproduced.run("git", "checkout", "--quiet", ".")
        reproduced.run("dvc", "checkout")


@pytest.mark.slow
def test_publish_rebuilds_a_row_from_a_revision_in_a_new_store(
    reproduced: Checkout, tmp_path
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'new.db'}"
    reproduced.run("mistakes", "publish", "HEAD", MLFLOW_TRACKING_URI=uri)
    reproduced.run("mistakes", "publish", "HEAD", MLFLOW_TRACKING_URI=uri)
    client = MlflowClient(uri)
    (row,) = client.search_runs([client.get_experiment_by_name("mistakes").experiment_id])
    (known,) = [
        r for r in reproduced.runs(level="pipeline") if r.data.params["detection.alpha"] == "0.05"
    ]
    assert row.data.metrics == known.data.metrics
    assert row.data.params == known.data.params
    assert row.data.tags["content_key"] == known.data.tags["content_key"]
    assert reproduced.run("mistakes", "publish", "no-such-revision", check=False).stderr.startswith(
        "error: "
    )


@pytest.mark.slow
def test_experiment_in_a_temporary_copy_lands_in_the_main_store(reproduced: Checkout) -> None:
    reproduced.run(
        "dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "detectors.calibration=all"
    )
    (row,) = reproduced.runs(level="pipeline", **{"`dvc.exp_name`": "temporary"})
    assert row.info.status == "FINISHED"
    assert row.info.run_name == "temporary/smoke"
    assert row.data.metrics["detectors.n_calibrating"] == row.data.metrics["images.n.cal"]
    (default,) = [r for r in reproduced.runs(level="pipeline") if r.info.run_name == "smoke"][-1:]
    assert default.data.metrics["detectors.n_calibrating"] < default.data.metrics["images.n.cal"]
    assert row.info.artifact_uri.startswith(f"file://{reproduced.folder}/mlartifacts/")
    assert (
        "Classifier “smoke”"
        in next((reproduced.folder / "mlartifacts").rglob("report.html")).read_text()
    )
    reproduced.run(
        "mistakes", "publish", "temporary"
    )  # by the experiment's name: the row is there already
    assert len(reproduced.runs(level="pipeline", **{"`dvc.exp_name`": "temporary"})) == 1


@pytest.mark.slow
def test_four_queued_experiments_on_two_workers(reproduced: Checkout) -> None:
    reproduced.run(
        "dvc",
        "exp",
        "run",
        "--queue",
        "-S",
        "detection.bootstrap=20,21",
        "-S",
        "hypotheses.bootstrap=30,31",
    )
    # the workers inherit the command's output: with a pipe, it would last until they are gone, and
    # they may linger
    reproduced.run("dvc", "queue", "start", "--jobs", "2", capture_output=False)
    deadline = time.monotonic() + 600
    while True:
        status = reproduced.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        assert time.monotonic() < deadline, status
        time.sleep(2)
    reproduced.run("dvc", "queue", "stop")
    assert status.count("Success") == 4, status
    rows = [
        r
        for r in reproduced.runs(level="pipeline")
        if r.data.params["detection.bootstrap"] in {"20", "21"}
    ]
    combinations = {
        (r.data.params["detection.bootstrap"], r.data.params["hypotheses.bootstrap"]) for r in rows
    }
    assert len(rows) == len(combinations) == 4
    assert {r.info.status for r in rows} == {"FINISHED"}
    assert len({r.data.tags["dvc.exp_name"] for r in rows}) == 4


@pytest.mark.slow
def test_plain_processes_make_the_bytes_of_forked_ones(
    reproduced: Checkout, tmp_path: Path
) -> None:
    """What all other tests use is what a user's `dvc repro` in a fresh clone makes."""
    plain = clone(tmp_path)
    plain.run("dvc", "repro", PATH=plain.plain_path)
    made, expected = (
        yaml.safe_load((checkout.folder / "dvc.lock").read_text())["stages"]
        for checkout in (plain, reproduced)
    )
    assert {name: stage.get("outs") for name, stage in made.items()} == {
        name: stage.get("outs") for name, stage in expected.items()
    }


@pytest.mark.slow
def test_unreachable_server_delays_nothing_and_the_run_appears_later_once(tmp_path) -> None:
    other = clone(tmp_path)
    absent = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "TRACKING_STRICT": "0"}
    done = other.run("dvc", "repro", "flow", **absent)
    assert "warning: MLflow at http://127.0.0.1:9 does not answer" in done.stderr + done.stdout
    assert next((other.folder / "data/flow").rglob("flow.safetensors"))
    assert not (other.folder / "mlflow.db").exists()
    for _ in range(2):
        other.run("python", "-m", "stages.track", DVC_ROOT=str(other.folder))
        assert len(other.runs(stage="flow")) == 1
        assert len(other.runs(level="pipeline")) == 1
    (flow,) = other.runs(stage="flow")
    assert {"loss", "nll_val"} <= set(flow.data.metrics)


def test_strict_tracking_refuses_an_unreachable_server(reproduced: Checkout) -> None:
    env = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "TRACKING_STRICT": "1"}
    done = reproduced.run("python", "-m", "stages.track", check=False, **env)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: MLflow: tracking store is 'http://127.0.0.1:9'"
    )


def test_metrics_fit_a_screen(reproduced: Checkout) -> None:
    """At most forty numbers of a classifier in all, and DVC's table of them at most 160 wide."""
    found = [
        json.loads(path.read_text()) for path in reproduced.folder.glob("data/**/metrics.json")
    ]
    assert 30 <= sum(map(len, found)) <= 40
    shown = reproduced.run("dvc", "metrics", "show").stdout.splitlines()
    assert shown[0].split()[:3] == ["Path", "accuracy", "adversarial"]
    assert max(map(len, shown)) <= 160


def test_plots_draw_what_the_tables_have_and_need_no_network(reproduced: Checkout) -> None:
    stages = yaml.safe_load((reproduced.folder / "dvc.yaml").read_text())["stages"]
    drawn = 0
    for stage in stages.values():
        for plot in stage.get("do", stage).get("plots", []):
            ((path, how),) = plot.items()
            table = pd.read_csv(reproduced.folder / path.replace("${key}", "smoke"))
            assert {how["x"], how["y"]} <= set(table.columns), path
            template = reproduced.folder / f".dvc/plots/{how.get('template')}.json"
            if template.is_file():
                text = template.read_text()
                used = set(re.findall(r'"field": "(\w+)"|datum\.(\w+)', text))
                assert {a or b for a, b in used} <= {"rev", *table.columns}, path
                drawn += 1
    assert drawn > 5
    reproduced.run("dvc", "plots", "show")
    page = (reproduced.folder / "dvc_plots/index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']http""", page)
    assert page.count("vegaEmbed(") > drawn
