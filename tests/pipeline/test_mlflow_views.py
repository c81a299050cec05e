"""What users of MLflow find in a row: data sets, tables to compare, and the guard as a model."""

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from checkouts import Checkout
from mlflow import MlflowClient

from mistakes.pipeline import mlflow_views
from mistakes.report import plots
from mistakes.serving import guard_model


@pytest.fixture
def client(reproduced: Checkout) -> MlflowClient:
    return MlflowClient(f"sqlite:///{reproduced.folder / 'mlflow.db'}")


@pytest.fixture
def row(reproduced: Checkout) -> Any:
    return min(reproduced.runs(level="pipeline"), key=lambda run: run.info.start_time)


def test_the_experiment_is_one_that_trains_models(client: MlflowClient) -> None:
    tags = client.get_experiment_by_name("mistakes").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_row_has_its_data_sets(reproduced: Checkout, row: Any) -> None:
    lock = yaml.safe_load((reproduced.folder / "dvc.lock").read_text())["stages"]["images"]
    md5 = {out["path"]: out["md5"].removesuffix(".dir") for out in lock["outs"]}
    found = {one.dataset.name: one for one in row.inputs.dataset_inputs}
    assert set(found) == {f"digits_{split}" for split in ("fit", "val", "cal", "test")}
    for split, context in mlflow_views.CONTEXTS.items():
        one = found[f"digits_{split}"]
        assert one.dataset.digest == md5[f"data/images/{split}"]
        assert [(tag.key, tag.value) for tag in one.tags] == [("mlflow.data.context", context)]
        images = np.load(reproduced.folder / f"data/images/{split}/labels.npy")
        assert json.loads(one.dataset.profile) == {"num_rows": len(images)}


def test_tables_are_in_the_form_that_mlflow_compares(
    reproduced: Checkout, client: MlflowClient, row: Any
) -> None:
    listed = json.loads(row.data.tags["mlflow.loggedArtifacts"])
    assert {one["path"] for one in listed} >= {"tables/macro.json", "tables/hypotheses.json"}
    (path,) = (reproduced.folder / "mlartifacts").rglob(f"{row.info.run_id}/**/tables/macro.json")
    found = pd.read_json(io.StringIO(path.read_text()), orient="split")
    table = pd.read_csv(reproduced.folder / "data/detection/smoke/macro.csv")
    pd.testing.assert_frame_equal(found, table, check_exact=False)


def test_figures_are_those_of_the_tables(reproduced: Checkout, row: Any) -> None:
    paths = (reproduced.folder / "mlartifacts").rglob(f"{row.info.run_id}/**/figures/*.svg")
    found = {path.stem: path.read_text() for path in paths}
    assert set(found) == {"deciles", "heat", "roc"}
    folder = reproduced.folder / "data/detection/smoke"
    assert found["deciles"] == plots.deciles(pd.read_csv(folder / "deciles.csv"))
    assert f"{pd.read_csv(folder / 'heat.csv')['auroc'].max():.3f}" in found["heat"]


def test_the_guard_is_the_newest_model_under_the_classifier_s_name(
    reproduced: Checkout, client: MlflowClient, row: Any
) -> None:
    version = client.get_model_version_by_alias("smoke", "newest")
    code = """
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///mlflow.db")
guard = mlflow.pyfunc.load_model("models:/smoke@newest")
print(guard.metadata.signature.outputs.input_names(), np.shape(guard.input_example["inputs"]))
guard.predict(np.load("data/images/test/images.npy")[:20]).to_csv("answer.csv", index=False)
"""
    said = reproduced.run("python", "-c", code).stdout
    shape = guard_model.load(reproduced.folder / "data/guard/smoke/model").form.shape
    assert said.strip() == f"{list(mlflow_views.ANSWER)} {(1, *shape)}"
    answer = pd.read_csv(reproduced.folder / "answer.csv")
    (reproduced.folder / "answer.csv").unlink()
    images = np.load(reproduced.folder / "data/images/test/images.npy")[:20]
    guard = guard_model.load(reproduced.folder / "data/guard/smoke/model")
    assert answer["p"].to_numpy() == pytest.approx(guard.predict(images)["p"].to_numpy())
    assert version.run_id in {run.info.run_id for run in reproduced.runs(level="pipeline")}


def test_tracking_again_registers_nothing(reproduced: Checkout, client: MlflowClient) -> None:
    before = len(client.search_model_versions("name = 'smoke'"))
    reproduced.run("python", "-m", "stages.track", DVC_ROOT=str(reproduced.folder))
    assert len(client.search_model_versions("name = 'smoke'")) == before >= 1


def test_requirements_name_this_project_and_what_it_needs() -> None:
    lines = mlflow_views._requirements().splitlines()
    assert lines[0].startswith("mistakes==")
    assert {line.partition("==")[0] for line in lines} >= {"torch", "nflows", "mlflow"}


def test_the_view_has_columns_that_a_row_has(client: MlflowClient, row: Any) -> None:
    tags = client.get_experiment_by_name("mistakes").tags
    columns = json.loads(tags[f"mlflow.sharedViewState.{mlflow_views.VIEW}"])["selectedColumns"]
    for column in columns:
        kind, name = column.rstrip("`").split(".`")
        assert kind == "attributes" or name in getattr(row.data, kind), column
    compared = json.loads(tags[f"mlflow.sharedViewState.{mlflow_views.COMPARE}"])
    for chart in compared["compareRunCharts"]:
        assert {*chart.get("selectedMetrics", [chart.get("metricKey")])} <= set(row.data.metrics)
    assert compared["selectedColumns"] == columns


def test_a_server_may_have_the_name_of_a_view() -> None:
    found = mlflow_views.compare_address("http://results.lab", "7")
    assert found.startswith("http://results.lab/#/experiments/7/runs?")
    assert found.endswith("viewStateShareKey=compare&compareRunsMode=CHART")
