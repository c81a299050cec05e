"""What users of MLflow look for in a row: data sets, tables to compare, the guard as a model."""

import contextlib
import importlib.metadata
import io
import json
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Run
from mlflow.exceptions import MlflowException

from mistakes.pipeline import snapshot
from mistakes.pipeline.snapshot import Tree

VIEW, COMPARE = "results", "compare"  # the names of the views: the table, and charts beside it
COLUMNS = (
    "attributes.`Created`",
    "metrics.`scores.accuracy_test`",
    "metrics.`detection.macro.guard`",
    "metrics.`detection.macro.nll`",
    "metrics.`detection.macro.best_baseline`",
    "metrics.`detection.false_alarms`",
    "metrics.`hypotheses.H1.a12`",
    "metrics.`hypotheses.H1.p_holm`",
    "params.`classifier.seed`",
    "params.`flow.condition`",
)
# a bar for each row
CHARTS = {
    "detection.macro.guard": "guard: macro AUROC",
    "detection.macro.nll": "log-density: macro AUROC",
    "detection.macro.best_baseline": "best baseline: macro AUROC",
    "hypotheses.H1.a12": "H1: A12 of mistakes",
    "scores.accuracy_test": "test accuracy",
    "detection.false_alarms": "guard: false alarms",
}
# the axes of the parallel coordinates
PARALLEL = (
    "scores.accuracy_test",
    "detection.auroc.guard.mistakes",
    "detection.auroc.guard.adversarial",
    "detection.auroc.guard.ood",
)
CONTEXTS = {"fit": "training", "val": "validation", "cal": "calibration", "test": "test"}
# the columns of a guard's answer, and their types to MLflow
ANSWER = {
    "prediction": "string",
    "confidence": "double",
    "p": "double",
    "flagged": "boolean",
    "reason": "string",
}


def address(server: str, experiment: str, view: str = VIEW) -> str:
    """Return where the rows are, as a view shows them: the table with the columns that matter."""
    how = f"workflowType=machine_learning&viewStateShareKey={view}"
    return f"{server}/#/experiments/{experiment}/runs?{how}"


def compare_address(server: str, experiment: str) -> str:
    """Return where charts stand beside the rows: those that are not hidden are compared."""
    return f"{address(server, experiment, COMPARE)}&compareRunsMode=CHART"


def _charts() -> dict[str, Any]:
    """Return the charts of the view COMPARE, in the form of MLflow's UI."""
    kept = dict.fromkeys(("deleted", "isGenerated"), False)
    common = kept | {"metricSectionId": "results", "runsCountToCompare": 10}
    charts: list[dict[str, Any]] = [
        {"type": "BAR", "uuid": f"bar.{key}", "metricKey": key, "displayName": name}
        for key, name in CHARTS.items()
    ]
    axes = {"selectedMetrics": PARALLEL, "selectedParams": []}
    charts.insert(0, {"type": "PARALLEL", "uuid": "parallel", **axes})
    section = kept | {"uuid": "results", "name": "Results", "display": True, "isReordered": False}
    return {
        "compareRunCharts": [one | common for one in charts],
        "compareRunSections": [section],
    }


def prepare(client: MlflowClient, experiment: str) -> None:
    """Have MLflow show the experiment as one that trains models, and give it its views."""
    view = {
        "searchFilter": "tags.level = 'pipeline'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": COLUMNS,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
    }
    wanted = {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
        f"mlflow.sharedViewState.{COMPARE}": json.dumps(view | _charts()),
    }
    known = client.get_experiment(experiment).tags
    for key, value in wanted.items():
        if known.get(key) != value:
            client.set_experiment_tag(experiment, key, value)


def datasets(tree: Tree, lock: dict[str, Any]) -> list[DatasetInput]:
    """Return the splits of ``tree`` as data sets of MLflow: name, md5, where they are, and size."""
    made = snapshot.outputs(lock)
    name = snapshot.mapping(tree, "params.yaml")["raw"]["dataset"]
    sizes = json.loads(tree.read("data/images/metrics.json") or b"{}")
    found = []
    for split, context in CONTEXTS.items():
        if digest := made.get(path := f"data/images/{split}"):
            one = Dataset(
                name=f"{name}_{split}",
                digest=digest.removesuffix(".dir"),
                source_type="dvc",
                source=json.dumps({"path": path, "md5": digest}),
                profile=json.dumps({"num_rows": sizes.get(f"n.{split}")}),
            )
            found.append(DatasetInput(one, [InputTag("mlflow.data.context", context)]))
    return found


def log_datasets(client: MlflowClient, row: Run, wanted: list[DatasetInput]) -> None:
    """Give the row its data sets, unless it has them."""
    there = row.inputs.dataset_inputs if row.inputs else []
    known = {(one.dataset.name, one.dataset.digest) for one in there}
    new = [one for one in wanted if (one.dataset.name, one.dataset.digest) not in known]
    if new:
        client.log_inputs(row.info.run_id, new)


def table(text: str) -> str:
    """Return a table, CSV or JSON records, in the form of MLflow's log_table.

    Examples
    --------
    >>> table("score,macro\\nguard,0.9\\n")
    '{"columns":["score","macro"],"data":[["guard",0.9]]}'
    """
    read = pd.read_json if text.startswith("[") else pd.read_csv
    return str(read(io.StringIO(text)).to_json(orient="split", index=False))


def log_guard(client: MlflowClient, row: Run, name: str, folder: Path, digest: str) -> list[str]:
    """Log the guard in ``folder`` as the row's model, and register it as the newest of ``name``.

    Returns why it could not be registered, in a sentence: a server may not allow everyone to.
    """
    known = row.outputs.model_outputs if row.outputs else []
    if any(client.get_logged_model(one.model_id).tags.get("md5") == digest for one in known):
        return []
    run_id, experiment = row.info.run_id, row.info.experiment_id
    model = client.create_logged_model(experiment, name, run_id, {"md5": digest}, None, "guard")
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "model"
        shutil.copytree(folder, whole)
        _describe(whole, model.model_id, run_id)
        client.log_model_artifacts(model.model_id, str(whole))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    with contextlib.suppress(MlflowException):  # it is registered already
        client.create_registered_model(name)
    try:
        source = f"models:/{model.model_id}"
        version = client.create_model_version(name, source, run_id, model_id=model.model_id)
        client.set_registered_model_alias(name, "newest", version.version)
    except MlflowException as error:
        return [f"the guard of {name} is logged, but not registered: {str(error).splitlines()[0]}"]
    return []


def _describe(folder: Path, model_id: str, run_id: str) -> None:
    """Add what only MLflow needs: signature, an input example, requirements.

    The inputs have no signature: MLflow casts what it is given to it, and would make zeros of
    pixels between 0 and 1 instead of refusing them, as the guard does.
    """
    described = json.loads((folder / "MLmodel").read_text(encoding="utf-8"))
    columns = [{"name": key, "type": kind, "required": True} for key, kind in ANSWER.items()]
    described["signature"]["outputs"] = json.dumps(columns)
    described |= {"model_id": model_id, "run_id": run_id}
    described["flavors"]["python_function"]["python_version"] = platform.python_version()
    shape = json.loads((folder / "form.json").read_text(encoding="utf-8"))["shape"]
    if shape is not None:
        grey = np.full([1, *shape], 128).tolist()
        text = json.dumps({"inputs": grey})
        (folder / "serving_input_example.json").write_text(text, encoding="utf-8")
        (folder / "input_example.json").write_text(text, encoding="utf-8")
        described["saved_input_example_info"] = {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "ndarray",
            "format": "tf-serving",
        }
    (folder / "MLmodel").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")


def _requirements() -> str:
    """Return NAME==VERSION for each library that this package needs, itself first."""
    needed = importlib.metadata.requires("mistakes") or []
    names = [re.match(r"[\w.-]+", line) for line in needed if "extra ==" not in line]
    found = ["mistakes", *(match[0] for match in names if match)]
    return "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in found)
