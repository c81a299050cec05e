"""dvc.yaml against the code: dependencies, parameters, names, and the proof that nothing leaks."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import ROOT

from mistakes.config import params
from mistakes.detectors import scoring
from mistakes.evaluation import score_table
from mistakes.pipeline import deps, overlays

STAGES = {
    name: definition.get("do", definition)
    for name, definition in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
LEAKS = ("data/adversarial", "data/ood", "data/corruptions", "data/images/novel_classes")


def data_deps(definition: dict) -> set[str]:
    return {dep for dep in definition["deps"] if dep.startswith("data/")}


def produced(definition: dict) -> list[str]:
    items = [
        *definition.get("outs", []),
        *definition.get("metrics", []),
        *definition.get("plots", []),
    ]
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def below(path: str, entries: set[str]) -> bool:
    return any(path == entry or path.startswith(f"{entry}/") for entry in entries)


@pytest.mark.parametrize("name", STAGES)
def test_deps_cover_the_import_closure(name: str) -> None:
    """Nothing is stale unseen, and nothing is listed that the stage does not import."""
    entries = {dep for dep in STAGES[name]["deps"] if not dep.startswith("data/")}
    files = deps.closure(name)
    assert not [path for path in files if not below(path, entries)]
    assert not [entry for entry in entries if not any(below(path, {entry}) for path in files)]
    assert name not in deps.EXPENSIVE or entries == files


def test_the_closure_is_that_of_the_imports() -> None:
    assert "mistakes/statistics/delong.py" in deps.closure("detection")
    assert "mistakes/networks/training.py" not in deps.closure("features")


@pytest.mark.parametrize("name", STAGES)
def test_one_noun_in_every_place(name: str) -> None:
    assert (ROOT / "stages" / f"{name}.py").is_file()
    assert STAGES[name]["cmd"].startswith(f"python -m stages.{name}")
    assert STAGES[name]["desc"]
    assert all(path.split("/")[1] == name for path in produced(STAGES[name]))


def test_every_script_is_a_stage() -> None:
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"track"}))
def test_command_names_exactly_the_data_dependencies(name: str) -> None:
    *inputs, out = STAGES[name]["cmd"].split()[3:]
    assert set(inputs) == data_deps(STAGES[name])
    assert all(path == out or path.startswith(out + "/") for path in produced(STAGES[name]))


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"track"}))
def test_parameters_used_are_parameters_listed(name: str) -> None:
    """A script reads run.params.SECTION, run.classifier and run.device; dvc.yaml must list just
    those.
    """
    used = set()
    for node in ast.walk(ast.parse((ROOT / "stages" / f"{name}.py").read_text())):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "run"
        ):
            used |= {"classifier": {"classifiers.${key}"}, "device": {"device"}}.get(
                node.attr, set()
            )
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute)
            and node.value.attr == "params"
        ):
            used.add(node.attr)
    listed, script = STAGES[name]["params"], (ROOT / "stages" / f"{name}.py").read_text()
    assert used == {p if p.startswith("classifiers") else p.split(".")[0] for p in listed}
    alone = {path for path in listed if "." in path and not path.startswith("classifiers")}
    for section in {path.split(".")[0] for path in alone}:  # then it reads nothing else of it
        read = re.findall(rf"params\.({section}\.\w+)", script)
        assert set(read) == {path for path in alone if path.startswith(section)}


def test_nothing_that_fits_descends_from_test_adversarial_or_ood() -> None:
    """Follow every file that a fitting stage reads back to its sources: only fit, val and cal may
    be met.

    ``features`` maps each split by itself, so its output of a split descends from the images of
    that split.
    """
    makers = {path: name for name, definition in STAGES.items() for path in produced(definition)}

    def ancestors(path: str) -> set[str]:
        maker = makers.get(path)
        if maker in (None, "raw", "images"):
            return {path}
        read = data_deps(STAGES[maker])
        if maker == "features":
            split = path.rsplit("/", 1)[1]
            read = {
                dep
                for dep in read
                if not dep.startswith("data/images/") or dep == f"data/images/{split}"
            }
        return {path}.union(*(ancestors(dep) for dep in read))

    for name in ("classifier", "flow", "detectors", "guard"):
        met = set().union(*(ancestors(dep) for dep in data_deps(STAGES[name])))
        assert met & {"data/images/fit", "data/images/val", "data/images/cal"}
        assert not [path for path in met if "/test" in path or path.startswith(LEAKS)]
    read = set().union(*(ancestors(dep) for dep in data_deps(STAGES["scores"])))
    assert "data/images/test" in read  # the walk does find the test images where they are


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"track"}))
def test_import_costs_no_more_than_the_stage_uses(name: str) -> None:
    code = f"import sys, stages.{name}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(loaded.stdout.split())
    assert "mlflow" not in modules
    assert ("matplotlib" in modules) == (name == "report")
    if name in {"raw", "images", "ood", "corruptions", "hypotheses", "detection", "report"}:
        assert "torch" not in modules


def test_readme_shows_what_the_committed_metrics_say() -> None:
    from mistakes.report.markdown import evidence

    readme, values = (ROOT / "README.md").read_text(), params.load(ROOT / "params.yaml")
    name = next(iter(values.classifiers))
    results = (ROOT / "docs" / "results.md").read_text()
    assert evidence(ROOT / "data", name, values) in results
    for record in ("seeds", "cifar10", "semi"):  # what the documented commands printed
        assert (ROOT / "experiments" / f"{record}.md").read_text() in results
    head, rule, *rows = (ROOT / "experiments" / "seeds.md").read_text().splitlines()
    shown = [line for line in readme.splitlines() if line in rows]
    assert shown == [row for row in rows if row in shown]  # in their order
    assert f"{head}\n{rule}\n{shown[0]}\n" in readme
    own = ("guard", "log-density", "joint", "posterior")
    assert {row for row in rows if row.split("|")[1].strip() in own} <= set(shown)
    baselines = [row for row in rows if row.split("|")[1].strip() not in own]
    assert [row for row in shown if row in baselines] == baselines[:8]  # the best
    assert len(readme.splitlines()) <= 150


def test_detectors_and_evaluation_mean_the_same_scores_by_own() -> None:
    """Neither may import the other, so each has the list."""
    assert scoring.OWN == score_table.OWN


def test_the_experiment_of_seeds_is_the_default_with_more_seeds() -> None:
    default = (ROOT / "params.yaml").read_text()
    overlay = {"seeds": (ROOT / "experiments" / "seeds.yaml").read_text()}
    default, seeds = (
        yaml.safe_load(text) for text in (default, overlays.applied(default, overlay))
    )
    ((_, first),) = default.pop("classifiers").items()
    trainings = list(seeds.pop("classifiers").values())
    assert seeds == default
    assert trainings == [first | {"seed": seed} for seed in range(3)]


def test_params_of_the_project_and_of_smoke_are_valid() -> None:
    default, smoke = (
        params.load(ROOT / "params.yaml"),
        params.load(ROOT / "tests" / "smoke" / "params.yaml"),
    )
    assert default.adversarial.attacks.keys() == smoke.adversarial.attacks.keys()


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "stages").glob("*.py"), *(ROOT / "mistakes").rglob("*.py")],
    ids=lambda p: p.stem,
)
def test_sizes(path: Path) -> None:
    """A stage is at most 115 lines, a module 400, a function body 50 (without its docstring)."""
    text = path.read_text()
    assert len(text.splitlines()) <= (115 if path.parent.name == "stages" else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or node.end_lineno - body[0].lineno < 50, node.name
