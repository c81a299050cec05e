"""Degenerate numbers through all stages: a tiny project of features as files, each stage run in this process."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mistakes import overlays, params, stage

ROOT = Path(__file__).parents[1]
SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()
COMMANDS = {
    name: shlex.split(definition.get("do", definition)["cmd"].replace("${key}", "given"))[3:]
    for name, definition in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
ORDER = ("raw", "images", "classifier", "features", "flow", "detectors", "adversarial", "ood", "corruptions", "scores",
         "adaptive", "hypotheses", "detection", "guard", "report")  # fmt: skip
SIZES = {"fit": 200, "val": 60, "cal": 80, "test": 100}
QUICK = {
    "classifiers": {"smoke": None, "given": {"source": "features"}},
    "flow": {"epochs": 2, "components": 3, "transform": "pca"},
    "detectors": {"gmm_principal": 2, "knn_bank": 100},
    "guard": {"epochs": 1},
    "hypotheses": {"resamples": 49, "bootstrap": 20, "controls": {"repetitions": 20, "resamples": 19}},
    "detection": {"bootstrap": 20},
}
Arrays = dict[str, np.ndarray]


def sample(n: int, rng: np.random.Generator, classes: int = 3, columns: int = 5, noise: float = 1.0) -> Arrays:
    """Return features in clusters, logits linear in them, labels: a model that is right most of the time."""
    means = 3 * np.random.default_rng(7).normal(size=(classes, columns))
    labels = np.arange(n) % classes
    z = means[labels] + noise * rng.normal(size=(n, columns))
    return {"features": z, "logits": z @ means.T - (means**2).sum(1) / 2, "labels": labels}


def splits(rng: np.random.Generator, **how: Any) -> dict[str, Arrays]:
    return {name: sample(n, rng, **how) for name, n in SIZES.items()}


class Project:
    """A folder with files of outputs and params.yaml, and its stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, parts: dict[str, Arrays], ood: dict[str, Arrays] | None = None, **changes: Any) -> "Project":
        for name, arrays in [*parts.items(), *(ood or {}).items()]:
            np.savez(self.folder / f"{name}.npz", **arrays)
        raw = {"dataset": "features", "parts": {name: f"{name}.npz" for name in parts}, "classes": None,
               "ood": {name: f"{name}.npz" for name in ood or {}}}  # fmt: skip
        values = yaml.safe_load(SMOKE)
        for overlay in (QUICK, {"raw": raw, "ood": {"sets": list(ood or {})}}, changes):
            values = overlays.merged(values, overlay, "test")
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))
        params.load(self.folder / "params.yaml")
        return self

    def run(self, *names: str) -> "Project":
        """Run stages as the command does, in this process; an error that a user would get as a traceback is raised."""
        for name in names or ORDER:
            module = __import__(f"stages.{name}", fromlist=["main"])
            function = module.main.__wrapped__
            arguments = list(function.__code__.co_varnames[1 : function.__code__.co_argcount])
            paths = dict(zip(arguments, map(Path, COMMANDS[name]), strict=True))
            stage._execute(name, function, paths)
        return self

    def metrics(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / "data" / name / "given" / "metrics.json").read_text())

    def warnings(self, name: str) -> str:
        return "\n".join(json.loads((self.folder / "data" / name / "given" / "warnings.json").read_text()))

    def scores(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "data" / "scores" / "given" / "scores.parquet")

    @property
    def page(self) -> str:
        return (self.folder / "data" / "report" / "report.html").read_text()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Project(tmp_path)
