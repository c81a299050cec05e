"""Degenerate numbers through all stages: a tiny project, mostly features as files, each stage run
in this process.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import ROOT

from mistakes import artifacts
from mistakes.attacks import adaptive
from mistakes.config import params
from mistakes.errors import InputError
from mistakes.pipeline import overlays, runner
from mistakes.report import markdown
from mistakes.serving import guard_model

SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()
COMMANDS = {
    name: shlex.split(definition.get("do", definition)["cmd"])[3:]
    for name, definition in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
ORDER = (
    "raw",
    "images",
    "classifier",
    "features",
    "flow",
    "detectors",
    "adversarial",
    "ood",
    "corruptions",
    "scores",
    "adaptive",
    "hypotheses",
    "detection",
    "guard",
    "report",
)
SIZES = {"fit": 200, "val": 60, "cal": 80, "test": 100}
QUICK = {
    "flow": {"epochs": 1, "components": 3, "transform": "pca"},
    "detectors": {"gmm_principal": 2, "knn_bank": 100, "guard": {"epochs": 1}},
    "hypotheses": {
        "resamples": 49,
        "bootstrap": 20,
        "controls": {"repetitions": 20, "resamples": 19},
    },
    "detection": {"bootstrap": 20},
}
GIVEN = {"classifiers": {"smoke": None, "given": {"source": "features"}}}
Arrays = dict[str, np.ndarray]


def sample(n: int, rng: np.random.Generator, classes: int = 3, columns: int = 5) -> Arrays:
    """Return clustered features, logits linear in them, labels, and early features."""
    means = 3 * np.random.default_rng(7).normal(size=(classes, columns))
    labels = np.arange(n) % classes
    z = means[labels] + 3 * rng.normal(size=(n, columns))
    logits = z @ means.T - (means**2).sum(1) / 2
    return {
        "features": z,
        "logits": logits,
        "labels": labels,
        "early_1": z[:, :2],
        "early_2": z[:, -2:],
    }


def splits(rng: np.random.Generator, **how: int) -> dict[str, Arrays]:
    return {name: sample(n, rng, **how) for name, n in SIZES.items()}


def noise(n: int, rng: np.random.Generator, **how: int) -> Arrays:
    """Return an OOD set: the outputs of inputs far away, which have no labels."""
    made = sample(n, rng, **how)
    return {key: 4 * array for key, array in made.items() if key != "labels"}


def only(arrays: Arrays, rows: np.ndarray) -> Arrays:
    return {key: array[rows] for key, array in arrays.items()}


def mistaken(arrays: Arrays, number: int) -> Arrays:
    """Return the part with labels of which the logits miss ``number``, the first, though not always
    by one class.
    """
    predicted, classes = arrays["logits"].argmax(1), arrays["logits"].shape[1]
    rows = np.arange(len(predicted))
    return arrays | {"labels": (predicted + (rows < number) * (1 + rows % (classes - 1))) % classes}


class Project:
    """A folder with files of outputs and params.yaml, and its stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self, parts: dict[str, Arrays], ood: dict[str, Arrays], *changes: dict[str, Any]
    ) -> "Project":
        for name, arrays in [*parts.items(), *ood.items()]:
            np.savez(self.folder / f"{name}.npz", **arrays)
        raw = {
            "dataset": "features",
            "parts": {name: f"{name}.npz" for name in parts},
            "classes": None,
            "ood": {name: f"{name}.npz" for name in ood},
        }
        return self.configure(GIVEN, {"raw": raw, "ood": {"sets": list(ood)}}, *changes)

    def configure(self, *changes: dict[str, Any]) -> "Project":
        values = yaml.safe_load(SMOKE)
        for change in (QUICK, *changes):
            values = overlays.merged(values, change, "test")
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))
        self.classifiers = list(params.load(self.folder / "params.yaml").classifiers)
        return self

    def run(self, *names: str) -> "Project":
        """Run stages as their commands do, in this process: what a user would get as a traceback is
        raised.
        """
        for name in names or ORDER:
            function = __import__(f"stages.{name}", fromlist=["main"]).main.__wrapped__
            arguments = function.__code__.co_varnames[1 : function.__code__.co_argcount]
            keys = self.classifiers if "${key}" in " ".join(COMMANDS[name]) else [""]
            for key in keys:
                paths = [Path(path.replace("${key}", key)) for path in COMMANDS[name]]
                runner._execute(name, function, dict(zip(arguments, paths, strict=True)))
        return self

    def read(self, name: str, file: str = "metrics.json", key: str = "given") -> Any:
        return json.loads((self.folder / "data" / name / key / file).read_text())

    def warnings(self, name: str) -> str:
        return "\n".join(self.read(name, "warnings.json"))

    def scores(self, key: str = "given") -> pd.DataFrame:
        return pd.read_parquet(self.folder / "data" / "scores" / key / "scores.parquet")

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"data/detection/given/{name}.csv")

    def auroc(self, name: str, score: str) -> float:
        return self.table("detection").set_index(["set", "score"]).loc[(name, score), "auroc"]

    @property
    def page(self) -> str:
        return (self.folder / "data" / "report" / "report.html").read_text()

    def check(self) -> "Project":
        """Assert that whatever was written can be read and is finite, and that the results are
        printed.
        """

        def refuse(constant: str) -> float:
            raise AssertionError(constant)

        for path in self.folder.rglob("data/**/*.json"):
            json.loads(path.read_text(), parse_constant=refuse)
        for key in self.classifiers:
            assert np.isfinite(self.scores(key).select_dtypes("number")).all(axis=None)
        values = params.load()
        texts = [markdown.markdown(Path("data"), key, values) for key in self.classifiers]
        for text in (
            self.page,
            markdown.comparison(Path("data"), self.classifiers, values),
            *texts,
        ):
            assert "nan" not in text.replace(".", " ").split()
            assert ">nan" not in text
        return self


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Project(tmp_path)


# degenerate features


def test_one_column_of_features_and_two_classes(project: Project, rng: np.random.Generator) -> None:
    how = {"columns": 1, "classes": 2}
    flow = {"flow": {"transform": "raw"}}
    project.write(splits(rng, **how), {"noise": noise(30, rng, **how)}, flow).run().check()
    left_out = "gmm_principal is 2, and 1 directions of the features vary"
    assert left_out in project.warnings("detectors")
    assert f"not applicable: {left_out}" in project.page
    assert project.auroc("noise", "nll") > 0.5


def test_copies_and_constants_are_no_matter_to_principal_components(
    project: Project, rng: np.random.Generator
) -> None:
    parts, foreign = splits(rng), noise(30, rng)
    for arrays in (*parts.values(), foreign):
        z = arrays["features"]
        arrays["features"] = np.column_stack([z, z[:, :2], np.full(len(z), 7.0), z @ np.ones(5)])
    project.write(parts, {"noise": foreign}).run().check()
    raw = {"raw": yaml.safe_load((project.folder / "params.yaml").read_text())["raw"]}
    project.configure(GIVEN, raw, {"ood": {"sets": ["noise"]}, "flow": {"transform": "raw"}})
    with pytest.raises(
        InputError, match="flow.transform is 'raw', expected pca, since only 5 of the 8"
    ):
        project.run("flow")


@pytest.mark.slow
def test_fewer_rows_than_columns(project: Project, rng: np.random.Generator) -> None:
    parts = splits(rng, columns=12)
    parts["fit"] = only(parts["fit"], np.arange(8))
    project.write(
        parts, {"noise": noise(30, rng, columns=12)}, {"flow": {"components": 7}}
    ).run().check()
    assert "few images of fit are labelled as 0 (3), 1 (3), 2 (2)" in project.warnings("detectors")
    assert "few images of fit are labelled as 0 (3), 1 (3), 2 (2)" in project.page


# few failures


def attack(project: Project, arrays: Arrays, name: str, succeeded: int) -> None:
    """Write what an attack on the first 20 right answers would, had it these outputs."""
    right = np.flatnonzero(arrays["logits"].argmax(1) == arrays["labels"])[:20]
    found = {
        key: array.astype(np.float32)
        for key, array in only(arrays, right).items()
        if key != "labels"
    }
    won = found["logits"][:succeeded]
    won[:] = np.roll(won, 1, axis=1)
    folder = project.folder / "data" / "adversarial" / "given" / "sets" / name
    artifacts.save_arrays(folder, **found, images=np.zeros((20, 1, 2, 2), np.uint8), origin=right)


def test_one_failure_of_each_cause(project: Project, rng: np.random.Generator) -> None:
    parts = splits(rng)
    parts["test"] = mistaken(parts["test"], 1)
    project.write(parts, {"noise": noise(30, rng), "single": noise(1, rng)})
    project.run(*ORDER[: ORDER.index("scores")])
    for name, succeeded in (("none", 0), ("one", 1), ("all", 20)):
        attack(project, parts["test"], name, succeeded)
    project.run(*ORDER[ORDER.index("scores") :]).check()
    said = project.warnings("detection")
    for words in (
        "the test images gave 1 failure;",
        "the attack none gave 0 failures;",
        "the attack one gave 1 failure;",
        "the OOD set single gave 1 failure;",
    ):
        assert words in said
        assert words in project.page
    rows = {
        (row["hypothesis"], row["set"]): row
        for row in project.read("hypotheses", "hypotheses.json")
    }
    for key in (("H1", "test"), ("H2", "one"), ("H3", "single")):
        assert (rows[key]["n"], rows[key]["p"]) == (1, 1)
    assert set(project.table("detection")["set"]) == {"all", "noise"}
    undetected = project.table("undetected").set_index(["set", "score"])["undetected"]
    assert undetected["none", "guard"] == 0


@pytest.mark.parametrize(("mistakes", "ood"), [(0, 0), (1, 1)])
def test_nothing_that_can_be_evaluated(
    project: Project, mistakes: int, ood: int, rng: np.random.Generator
) -> None:
    """No mistake or one, no OOD input or one, and two classifiers, which are compared."""
    parts = splits(rng)
    parts["test"] = mistaken(parts["test"], mistakes)
    two = {"classifiers": {"second": {"source": "features"}}}
    project.write(parts, {"single": noise(1, rng)} if ood else {}, two).run().check()
    assert "No set has enough failures to be evaluated" in project.page
    assert project.read("detection").keys() == {"false_alarms"}
    assert project.read("detection")["false_alarms"] < 0.5
    assert len(project.read("hypotheses", "hypotheses.json")) == 4 * mistakes + ood


@pytest.mark.slow
def test_a_test_part_of_a_few_rows(project: Project, rng: np.random.Generator) -> None:
    parts = splits(rng)
    parts["test"] = mistaken(only(parts["test"], np.arange(6)), 2)
    project.write(parts, {"noise": noise(30, rng)}).run().check()


@pytest.mark.parametrize("mistakes", [99, 100])
def test_without_right_answers_nothing_can_be_compared(
    project: Project, mistakes: int, rng: np.random.Generator
) -> None:
    parts = splits(rng)
    parts["test"] = mistaken(parts["test"], mistakes)
    project.write(parts, {"noise": noise(30, rng)}).run(*ORDER[: ORDER.index("scores")])
    words = f"test: {100 - mistakes} of 100 images are classified correctly, expected at least 2"
    with pytest.raises(InputError, match=words):
        project.run("scores")


@pytest.mark.slow
def test_training_answers_that_are_all_wrong_are_only_a_control_less(
    project: Project, rng: np.random.Generator
) -> None:
    parts = splits(rng)
    parts["fit"] = mistaken(parts["fit"], 200)
    project.write(parts, {"noise": noise(30, rng)}).run().check()
    assert project.read("hypotheses", "controls.json")[3]["n_other"] == 0


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("val", "features of val: 0 of 60 inputs are classified correctly"),
        ("cal", "cal: none of 80 images is classified correctly"),
    ],
)
def test_parts_without_right_answers_are_named(
    project: Project, part: str, words: str, rng: np.random.Generator
) -> None:
    parts = splits(rng)
    parts[part] = mistaken(parts[part], 1000)
    project.write(parts, {"noise": noise(30, rng)})
    with pytest.raises(InputError, match=words):
        project.run(*ORDER[: ORDER.index("detectors") + 1])


# scores


def test_inputs_that_are_all_the_same_tie_in_every_score(
    project: Project, rng: np.random.Generator
) -> None:
    parts, foreign = splits(rng), noise(30, rng)
    for arrays in (parts["val"], parts["cal"], parts["test"], foreign):
        for key in arrays.keys() - {"labels"}:
            arrays[key][:] = parts["val"][key][0]
        arrays.get("labels", np.zeros(0))[::2] = parts["val"]["logits"][
            0
        ].argmax()  # most answers are right
    project.write(parts, {"same": foreign}).run(*ORDER[: ORDER.index("scores")])
    attack(project, parts["test"], "nothing", 20)
    project.run(*ORDER[ORDER.index("scores") :]).check()
    assert project.auroc("same", "guard") == 0.5


def test_the_unit_of_an_attacked_score_is_never_zero() -> None:
    assert adaptive.spread(np.zeros(50)) == adaptive.spread(np.r_[np.full(49, -1.0), 3]) == 1
    assert adaptive.spread(np.linspace(0, 100, 101)) == pytest.approx(34)


def test_inputs_beyond_all_bounds_are_scored(project: Project, rng: np.random.Generator) -> None:
    foreign = noise(30, rng)
    for key in ("features", "early_1", "logits"):
        foreign[key][3] *= 1e25
    project.write(
        splits(rng), {"noise": foreign}, {"flow": {"transform": "direction_norm"}}
    ).run().check()
    assert project.scores().query("origin == 'ood'")["p_nll"].iloc[3] == pytest.approx(
        1 / (project.read("detectors")["n_calibrating"] + 1)
    )


# rare classes


@pytest.mark.parametrize(("left", "shown"), [(0, "2 (0)"), (3, "2 (3)"), (5, None)])
def test_a_class_that_is_rare_in_fit(
    project: Project, left: int, shown: str | None, rng: np.random.Generator
) -> None:
    parts = splits(rng)
    fit = parts["fit"]
    rare = (fit["labels"] == 2) | (fit["logits"].argmax(1) == 2)
    right = np.flatnonzero((fit["labels"] == 2) & (fit["logits"].argmax(1) == 2))[:left]
    parts["fit"] = only(fit, np.sort(np.r_[np.flatnonzero(~rare), right]))
    project.write(parts, {"noise": noise(30, rng)}).run().check()
    said = project.warnings("detectors")
    if shown is None:
        assert said == ""
    else:
        assert f"few images of fit are labelled as {shown}" in said
        assert f"few images of fit are predicted as {shown}" in said
    guard = guard_model.load(project.folder / "data" / "guard" / "given" / "model")
    of_class = only(parts["test"], parts["test"]["logits"].argmax(1) == 2)
    answer = guard.predict({key: array for key, array in of_class.items() if key != "labels"})
    assert set(answer["prediction"]) == {"2"}
    assert np.isfinite(answer["p"]).all()


def test_a_class_that_is_never_predicted_is_named(
    project: Project, rng: np.random.Generator
) -> None:
    """Nor is it in cal and test: no answer of it is right."""
    parts = splits(rng)
    for arrays in parts.values():
        arrays["logits"][:, 1] = -1e3
    names = {"raw": {"classes": ["cat", "dog", "cow"]}}
    project.write(parts, {"noise": noise(30, rng)}, names).run().check()
    assert "few images of fit are predicted as dog (0)" in project.warnings("detectors")
    assert "labelled" not in project.warnings("detectors")
    assert "few images of fit are predicted as dog (0)" in project.page


@pytest.mark.slow
def test_a_class_that_only_test_has(project: Project, rng: np.random.Generator) -> None:
    parts = splits(rng)
    for name in ("fit", "val", "cal"):
        parts[name] = only(parts[name], parts[name]["labels"] != 1)
    project.write(parts, {"noise": noise(30, rng)}).run().check()
    assert "labelled as 1 (0)" in project.warnings("detectors")


def test_a_warning_of_many_classes_names_some(project: Project, rng: np.random.Generator) -> None:
    parts = splits(rng, classes=50)
    project.write(parts, {}).run(*ORDER[: ORDER.index("adversarial")])
    assert "few images of fit are labelled as 0 (4), 1 (4), 2 (4), " in project.warnings(
        "detectors"
    )
    assert "9 (4) and 40 more: " in project.warnings("detectors")


# baselines that do not apply


def test_baselines_that_do_not_apply_are_left_out_and_said(
    project: Project, rng: np.random.Generator
) -> None:
    parts = splits(rng)
    for arrays in parts.values():
        arrays["logits"] -= np.log(
            np.exp(arrays["logits"]).sum(1, keepdims=True)
        )  # log-probabilities
    wanted = {"detectors": {"knn_k": 500, "gmm_components": 300}}
    project.write(parts, {"noise": noise(30, rng)}, wanted).run().check()
    reasons = {
        "vim": "the logits are not linear in the features of this features.layer",
        **dict.fromkeys(
            ("fdbd", "react", "ash", "scale"),
            "the logits are not linear in the features of this features.layer",
        ),
        **dict.fromkeys(("knn", "nnguide", "lid"), "knn_k is 500, and the bank has 100 images"),
        "gmm": "gmm_components is 300, and fit has 200 images",
    }
    left_out = project.read("detectors", "applicability.json")["baselines"]
    table = markdown.markdown(Path("data"), "given", params.load())
    for name, reason in reasons.items():
        assert left_out[name] == reason
        assert f"the baseline {name} is not applicable and left out: {reason}" in project.page
        assert f">not applicable: {reason}</td>" in project.page
        assert f"| {name} | not applicable: {reason} |" in table
        assert name not in project.scores()


@pytest.mark.slow
def test_a_baseline_that_does_not_apply_is_not_attacked(project: Project) -> None:
    attacks = dict.fromkeys(yaml.safe_load(SMOKE)["adversarial"]["attacks"])
    attacks |= {"fgsm": {"attack": "GradientSignAttack", "norm": "linf", "arguments": {"eps": 0.3}}}
    project.configure(
        {
            "adversarial": {"attacks": attacks, "images": 20},
            "detectors": {"knn_k": 501, "knn_bank": 500},
            "adaptive": {"detectors": ["knn", "msp"], "steps": 2, "images": 10},
            "ood": {"sets": ["uniform"]},
        }
    ).run().check()
    assert (
        "the baseline knn is not applicable and not attacked"
        in (project.folder / "data" / "adaptive" / "smoke" / "warnings.json").read_text()
    )
    table = pd.read_csv(project.folder / "data/adaptive/smoke/adaptive.csv")
    assert set(table["target"]) == {"none", "msp"}
    assert "knn" not in set(table["score"])
