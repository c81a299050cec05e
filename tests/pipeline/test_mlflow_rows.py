"""The rows of MLflow say what the files say: other data under the same name, higher or lower, late
or by hand.
"""

import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checkouts import Checkout, clone
from commands import ROOT, SMOKE, run
from mlflow import MlflowClient
from PIL import Image

from mistakes import cli
from mistakes.config import params
from mistakes.networks import programs
from mistakes.pipeline import custom, journal, mlflow_rows, mlflow_store, provenance, snapshot

SCORES, MODEL = "data/scores/smoke/metrics.json", "data/classifier/smoke/model.safetensors"


@functools.cache
def stages() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml for a classifier ``smoke``, with their outputs as paths."""
    found = {}
    for stage, definition in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        text = yaml.safe_dump(definition.get("do", definition)).replace("${key}", "smoke")
        one = yaml.safe_load(text)
        outs = [*one.get("outs", []), *one.get("metrics", []), *one.get("plots", [])]
        one["outs"] = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
        found[f"{stage}@smoke" if "do" in definition else stage] = one
    return found


class Project:
    """A folder with every output of the pipeline as a small file, and the dvc.lock that says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("stages", "mistakes"):
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "dvc.yaml", folder)
        (folder / "params.yaml").write_text(SMOKE)
        for definition in stages().values():
            for path in definition["outs"]:
                self.write(path, "{}" if path.endswith(".json") else path)
        self.write(SCORES, '{"accuracy_test": 0.8, "n.test": 500}')
        self.lock()

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def lock(self, *without: str) -> None:
        """Write dvc.lock as DVC would, had every stage just run."""
        values = yaml.safe_load((self.folder / "params.yaml").read_text())
        entries, made = {}, {path for one in stages().values() for path in one["outs"]}
        for stage, one in stages().items():
            places = [place for place in one.get("params", []) if isinstance(place, str)]
            entries[stage] = {
                "cmd": one["cmd"],
                "deps": [self._hashed(path) for path in one["deps"] if path in made],
                "params": {"params.yaml": {place: snapshot.at(values, place) for place in places}},
                "outs": [self._hashed(path) for path in one["outs"]],
            }
        entries = {stage: entry for stage, entry in entries.items() if stage not in without}
        (self.folder / "dvc.lock").write_text(
            yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=False)
        )

    def _hashed(self, path: str) -> dict[str, str]:
        return {"path": path, "md5": snapshot.md5(self.folder / path)}

    def track(self) -> list[str]:
        without_row, lacking = mlflow_rows.complete(snapshot.WorkTree())
        return [*without_row, *lacking]

    def rows(self) -> list[Any]:
        return mlflow_store.Store().find(level="pipeline")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, since making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture
def project(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    for name in [
        name for name in os.environ if name.startswith(("DVC_", "MLFLOW_TRACKING", "MLFLOW_EXP"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKING_STRICT", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(database, "mlflow.db")
    return Project(tmp_path)


def accuracies(project: Project) -> list[float]:
    """What each row says, oldest first."""
    found = sorted(project.rows(), key=lambda row: row.info.start_time)
    return [row.data.metrics["scores.accuracy_test"] for row in found]


@pytest.mark.parametrize(("first", "then"), [(0.9, 0.7), (0.7, 0.9)])
def test_other_results_of_the_same_parameters_are_another_row(
    project: Project, first: float, then: float
) -> None:
    for value in (first, then):
        project.write(MODEL, f"weights of {value}")
        project.write(
            SCORES,
            json.dumps({"accuracy_test": value} | ({"n.test": 500} if value == first else {})),
        )
        project.lock()
        assert project.track() == []
    assert accuracies(project) == [first, then]
    newest = project.rows()[0]
    assert "scores.n.test" not in newest.data.metrics  # nothing is left from before
    assert provenance.of(newest).outputs[MODEL] == snapshot.md5(project.folder / MODEL)

    project.write(MODEL, f"weights of {first}")  # the first data again: the first row again
    project.write(SCORES, json.dumps({"accuracy_test": first, "n.test": 500}))
    project.lock()
    project.track()
    assert accuracies(project) == [first, then]


@pytest.mark.parametrize(
    "path", ["data/guard/smoke/model", pytest.param("data/raw", marks=pytest.mark.slow)]
)
def test_other_outputs_are_another_row_though_no_metric_differs(
    project: Project, path: str
) -> None:
    project.track()
    project.write(path, "made from other data")
    project.lock()
    project.track()
    assert len(project.rows()) == 2


def test_a_row_of_older_versions_is_known_by_its_tags_and_gets_one_instead(
    project: Project,
) -> None:
    """These had a tag for each output and stage, and content keys that were made otherwise."""
    project.track()
    (row,) = project.rows()
    client, run_id = mlflow_store.Store().client, row.info.run_id
    known = provenance.of(row)
    older = {f"md5.{path}": md5 for path, md5 in known.outputs.items()}
    older |= {f"ran.{stage}": "a run" for stage in ("scores", "flow")}
    for key, value in older.items():
        client.set_tag(run_id, key, value)
    client.delete_tag(run_id, provenance.TAG)
    client.set_tag(run_id, "content_key", "of another version")
    assert provenance.of(project.rows()[0]).outputs == known.outputs
    project.track()
    (row,) = project.rows()
    assert provenance.of(row).ran == {"scores": "a run", "flow": "a run"}
    assert not [tag for tag in row.data.tags if tag.startswith(provenance.FORMER)]
    listed = client.download_artifacts(run_id, "provenance.json")
    assert json.loads(Path(listed).read_text())["ran"]["flow"] == "a run"


@pytest.mark.parametrize("value", [0.1, 0.99])
def test_whatever_stood_in_a_row_it_says_what_the_files_say(project: Project, value: float) -> None:
    """Higher or lower, at a later step, by hand or by an earlier version."""
    project.track()
    (row,) = project.rows()
    client, run_id = mlflow_store.Store().client, row.info.run_id
    client.log_metric(
        run_id, "scores.accuracy_test", value, timestamp=row.info.start_time + 10**9, step=7
    )
    wrong = provenance.Provenance({MODEL: "another", "data/gone": "1"}, {}, {"flow": "nobody"})
    client.set_tag(run_id, provenance.TAG, wrong.text())
    client.log_text(run_id, "another page", "report/report.html")
    client.delete_tag(run_id, "artifacts")
    project.track()
    (row,) = project.rows()
    assert row.data.metrics["scores.accuracy_test"] == 0.8
    assert provenance.of(row).outputs[MODEL] == snapshot.md5(project.folder / MODEL)
    assert "data/gone" not in provenance.of(row).outputs
    page = client.download_artifacts(run_id, "report/report.html")
    assert Path(page).read_text() == "data/report/report.html"
    before = row.data.to_dictionary()
    project.track()
    (row,) = project.rows()
    assert row.data.to_dictionary() == before
    assert len(client.get_metric_history(run_id, "scores.accuracy_test")) == 3


def test_the_report_and_parameters_file_of_a_row_are_the_newest(project: Project) -> None:
    """They serve all classifiers: they change without a result of this one changing."""
    project.track()
    project.write("data/report/report.html", "with a second classifier")
    project.write("params.yaml", SMOKE + "\n# a remark\n")
    project.lock()
    project.track()
    (row,) = project.rows()
    client = mlflow_store.Store().client
    for path, text in {
        "report/report.html": "with a second classifier",
        "params.yaml": SMOKE + "\n# a remark\n",
    }.items():
        assert Path(client.download_artifacts(row.info.run_id, path)).read_text() == text
    lock = yaml.safe_load(Path(client.download_artifacts(row.info.run_id, "dvc.lock")).read_text())
    there = yaml.safe_load(Path("dvc.lock").read_text())
    there["stages"].pop("track")
    assert lock == there


def test_code_that_gives_the_same_results_makes_no_row(project: Project) -> None:
    project.track()
    (row,) = project.rows()
    with Path("mistakes/detectors/guard.py").open("a") as file:
        file.write("# a typo less\n")
    project.track()
    (again,) = project.rows()
    assert again.data.tags["code"] != row.data.tags["code"]
    assert again.data.tags["content_key"] == row.data.tags["content_key"]


def test_a_row_of_an_earlier_version_is_found(project: Project) -> None:
    project.track()
    (row,) = project.rows()
    client, run_id = mlflow_store.Store().client, row.info.run_id
    for tag in ("code", "progress"):
        if tag in row.data.tags:
            client.delete_tag(run_id, tag)
    client.set_tag(run_id, "content_key", "of parameters and code")
    project.track()
    (again,) = project.rows()
    assert again.info.run_id == run_id
    assert again.data.tags["content_key"] == row.data.tags["content_key"]


def test_executions_in_progress_come_together_and_into_the_row_of_their_results(
    project: Project,
) -> None:
    """Also those of a second time with the same results; and two experiments at once keep theirs
    apart.
    """
    store = mlflow_store.Store()

    def execute(experiment: str, metrics: str) -> str:
        os.environ["DVC_EXP_NAME"] = experiment
        try:
            key = snapshot.progress_key(snapshot.WorkTree(), "smoke")
            execution = journal.Execution("scores", "smoke", key, "# python\nnumpy==1\n")
            execution.metrics(1, {"loss": 0.5})
            run_id = store.ship(execution.events())
            project.write(SCORES, metrics)
            execution.end("FINISHED", outputs=snapshot.written(Path("data/scores/smoke")))
            store.ship(execution.events(), run_id)
            (here,) = [
                row
                for row in project.rows()
                if row.data.tags.get("progress") == key and row.info.status == "RUNNING"
            ]
            assert here.data.metrics == {}
            return run_id
        finally:
            del os.environ["DVC_EXP_NAME"]

    def complete(experiment: str) -> str:
        project.lock()
        os.environ["DVC_EXP_NAME"] = experiment
        try:
            mlflow_rows.complete(snapshot.WorkTree(), {"DVC_EXP_NAME": experiment})
        finally:
            del os.environ["DVC_EXP_NAME"]
        return snapshot.key(snapshot.WorkTree(), "smoke")

    low, high = '{"accuracy_test": 0.6}', '{"accuracy_test": 0.9}'
    one, other = execute("low", low), execute("high", high)
    keys = [complete("high")]
    project.write(SCORES, low)
    keys.append(complete("low"))
    again = execute("later", low)
    assert complete("later") == keys[1]
    assert len(project.rows()) == 2
    for key, accuracy, made, name in (
        (keys[0], 0.9, other, "high/smoke"),
        (keys[1], 0.6, again, "low/smoke"),
    ):
        (row,) = store.find(content_key=key)
        assert (row.info.status, row.info.run_name) == ("FINISHED", name)
        assert row.data.metrics["scores.accuracy_test"] == accuracy
        assert provenance.of(row).ran["scores"] == made
        assert provenance.of(row).cached["flow"] == "unknown"
    parents = {
        run_id: store.client.get_run(run_id).data.tags["mlflow.parentRunId"]
        for run_id in (one, again)
    }
    assert set(parents.values()) == {store.find(content_key=keys[1])[0].info.run_id}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: p.write("params.yaml", SMOKE.replace("layers: 2", "layers: 3")),
            "flow in params.yaml is not what",
        ),
        (
            lambda p: p.write(SCORES, '{"accuracy_test": 1.0}'),
            f"{SCORES} is not what stage scores wrote",
        ),
        (
            lambda p: p.write("data/detection/smoke/macro.csv", "score,macro_auroc\nguard,1\n"),
            "data/detection/smoke/macro.csv is not what stage detection wrote",
        ),
        (
            lambda p: p.lock("flow@smoke", "guard@smoke"),
            "dvc.lock has no results of smoke by flow, guard",
        ),
    ],
)
def test_files_that_are_not_one_result_get_no_row_and_say_why(
    project: Project, change: Any, words: str, capsys
) -> None:
    project.track()
    change(project)
    (sentence,) = project.track()
    assert sentence.startswith("no row for smoke from the files here: ")
    assert words in sentence
    assert accuracies(project) == [0.8]
    cli.publish([])  # tells MLflow what the journal holds all the same
    told = capsys.readouterr()
    assert told.err == f"warning: {sentence}\n"
    assert "published" not in told.out


@pytest.mark.slow
@pytest.mark.parametrize("place", ["shared cache", "remote", "nowhere"])
def test_artifacts_of_a_revision_come_from_wherever_dvc_has_them(
    project: Project, tmp_path: Path, place: str
) -> None:
    checkout = Checkout(project.folder)
    there = tmp_path.with_name(f"{tmp_path.name} elsewhere")
    checkout.run("git", "init", "--quiet")
    checkout.run("dvc", "init", "--quiet")
    if place == "shared cache":
        checkout.run("dvc", "config", "cache.dir", str(there))
    checkout.run("dvc", "commit", "--force", "--quiet")
    if place == "remote":
        checkout.run("dvc", "remote", "add", "--default", "store", str(there))
        checkout.run("dvc", "push", "--quiet")
    checkout.run(
        "git",
        "add",
        "--all",
        "--force",
        "dvc.lock",
        "dvc.yaml",
        "params.yaml",
        "mistakes",
        "stages",
        ".dvc",
    )
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message=results")
    if place != "shared cache":
        shutil.rmtree(".dvc/cache")
    shutil.rmtree("data")
    done = checkout.run("mistakes", "publish", "HEAD", PYTHONPATH=str(ROOT))
    (row,) = project.rows()
    client, listed = mlflow_store.Store().client, "report/report.html"
    assert row.data.metrics["scores.accuracy_test"] == 0.8
    if place == "nowhere":
        assert "warning: the row of smoke lacks data/report/report.html: " in done.stderr
        assert client.list_artifacts(row.info.run_id, "report") == []
        assert "artifacts" not in row.data.tags
    else:
        assert done.stderr == ""
        assert (
            Path(client.download_artifacts(row.info.run_id, listed)).read_text()
            == "data/report/report.html"
        )


def as_features(project: Project) -> Path:
    path = project.folder / "own" / "train.npz"
    rng = np.random.default_rng(0)
    path.parent.mkdir()
    np.savez(
        path,
        features=rng.normal(size=(60, 4)),
        logits=rng.normal(size=(60, 3)),
        labels=np.arange(60) % 3,
    )
    raw = {"dataset": "features", "parts": {"train": "own/train.npz"}, "ood": {}, "classes": None}
    settle(project.folder, raw, {"smoke": {"source": "features"}}, [])
    return path


def as_images(project: Project) -> Path:
    for place in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        path = project.folder / "own" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), len(place), np.uint8)).save(path)
    raw = {
        "dataset": "image_folder",
        "train": "own",
        "test": None,
        "size": None,
        "channels": 1,
        "corrupt": "refuse",
    }
    settle(project.folder, raw | {"ood": []}, None, ["glyphs"])
    return path


def settle(
    folder: Path, raw: dict[str, Any], classifiers: dict[str, Any] | None, ood: list[str]
) -> None:
    values = yaml.safe_load(SMOKE)
    values |= {"raw": raw, "classifiers": classifiers or values["classifiers"]}
    values["ood"]["sets"] = ood
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [as_features, as_images])
def test_own_files_that_changed_under_their_path_are_noticed_by_content(
    project: Project, kind: Any
) -> None:
    path = kind(project)
    shutil.rmtree("data/raw", ignore_errors=True)
    Path("data/raw").unlink(missing_ok=True)
    done = run(project.folder, "raw", "data/raw", DVC_ROOT=str(project.folder))
    assert done.returncode == 0, done.stderr
    project.lock()
    remembered = journal.local("seen.json").read_bytes()
    first = path.read_bytes()
    assert custom.changed() == {}
    assert journal.local("seen.json").read_bytes() == remembered  # nothing was read for it

    path.write_bytes(first)  # another time, the same content
    os.utime(path, (1, 1))
    assert custom.changed() == {}
    assert journal.local("seen.json").read_bytes() != remembered

    if kind is as_features:
        arrays = dict(np.load(path))
        np.savez(path, **arrays | {"labels": arrays["labels"][::-1]})
    else:
        Image.fromarray(np.full((8, 8), 200, np.uint8)).save(path)
    (change,) = custom.changed().values()
    assert change.sentence.startswith("own")
    assert "changed since stage raw read it" in change.sentence
    assert change.readable
    journal.local("seen.json").unlink()  # a fresh clone remembers nothing, and sees it all the same
    assert list(custom.changed()) == ["raw"]

    path.write_bytes(first)
    assert custom.changed() == {}
    path.write_bytes(b"no more")
    assert "can be read no more: own" in custom.changed()["raw"].sentence
    assert not custom.changed()["raw"].readable
    shutil.rmtree("own")  # what was read stands
    assert custom.changed() == {}


def test_the_code_of_an_entry_point_is_its_module_and_what_it_imports_of_the_user_s(
    tmp_path: Path, monkeypatch
) -> None:
    package = tmp_path / "nets_of_mine"  # without __init__.py
    (package / "parts").mkdir(parents=True)
    (package / "parts" / "__init__.py").write_text("from . import blocks\n")
    (package / "parts" / "blocks.py").write_text("import torch\nimport numpy as np\n")
    (package / "unused.py").write_text("x = 1\n")
    (tmp_path / "helper_of_mine.py").write_text("raise SystemExit('it is read, not run')\n")
    (package / "net.py").write_text(
        "import mistakes.own\nfrom .parts import blocks\n\ndef make():\n    import helper_of_mine\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = programs.files("nets_of_mine.net:make")
    assert set(found) == {
        "nets_of_mine.net",
        "nets_of_mine.parts",
        "nets_of_mine.parts.blocks",
        "helper_of_mine",
    }
    before = programs.key("nets_of_mine.net:make")
    (package / "unused.py").write_text("x = 2\n")
    assert programs.key("nets_of_mine.net:make") == before
    (tmp_path / "helper_of_mine.py").write_text("x = 1\n")
    assert programs.key("nets_of_mine.net:make") != before
    (package / "net.py").write_text("def make(:\n")
    assert set(programs.files("nets_of_mine.net:make")) == {"nets_of_mine.net"}
    assert programs.files("torch.nn:Linear") == programs.files("no_such_module:make") == {}


NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""


def weights(path: Path, seed: int) -> None:
    from safetensors.numpy import save_file
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    net = MLPClassifier((8,), early_stopping=True, random_state=seed).fit((x / 16 - 0.3) / 0.35, y)
    layers = {"1": (net.coefs_[0], net.intercepts_[0]), "3": (net.coefs_[1], net.intercepts_[1])}
    tensors = {f"{k}.weight": np.ascontiguousarray(w.T, np.float32) for k, (w, _) in layers.items()}
    save_file(tensors | {f"{k}.bias": b.astype(np.float32) for k, (_, b) in layers.items()}, path)


@pytest.mark.slow
def test_weights_and_code_under_the_same_name_are_taken_in_again(tmp_path: Path) -> None:
    checkout = clone(tmp_path)
    (tmp_path / "net_of_mine.py").write_text(NET)
    weights(tmp_path / "mine.safetensors", 0)
    entry = {
        "source": "entrypoint",
        "entrypoint": "net_of_mine:make",
        "arguments": {},
        "weights": "mine.safetensors",
        "layer": "2",
        "early": [],
        "mean": [0.3],
        "std": [0.35],
        "channels": 1,
        "size": None,
    }
    settle(tmp_path, {"dataset": "digits", "ood": []}, {"mine": entry}, ["glyphs"])
    checkout.run("dvc", "repro", "features")
    tree = snapshot.WorkTree(tmp_path)
    keys, outputs = [snapshot.key(tree, "mine")], [snapshot.own_outputs(tree, "mine")]
    assert checkout.run("mistakes", "repair").stderr == ""

    weights(tmp_path / "mine.safetensors", 1)
    assert "up to date" in checkout.run("dvc", "repro", "features").stdout  # DVC does not see it
    done = checkout.run("mistakes", "repair")
    assert (
        "mine.safetensors, net_of_mine.py: changed since stage classifier@mine read it"
        in done.stderr
    )
    assert "Running stage 'features@mine'" in checkout.run("dvc", "repro", "features").stdout
    keys.append(snapshot.key(tree, "mine"))
    outputs.append(snapshot.own_outputs(tree, "mine"))

    (tmp_path / "net_of_mine.py").write_text(
        NET.replace("nn.ReLU()", "nn.GELU()")
    )  # the same weights fit
    done = checkout.run("dvc", "repro", "--force", "--single-item", "features@mine", check=False)
    assert done.returncode != 0
    assert (
        "the code of net_of_mine:make is not what the classifier was taken in with"
        in done.stderr + done.stdout
    )
    checkout.run("mistakes", "repair")
    assert "Running stage 'features@mine'" in checkout.run("dvc", "repro", "features").stdout
    keys.append(snapshot.key(tree, "mine"))
    outputs.append(snapshot.own_outputs(tree, "mine"))
    assert len(set(keys)) == 3
    for path in ("data/classifier/mine/model.safetensors", "data/features/mine/test"):
        assert len({made[path] for made in outputs}) == 3
    assert checkout.run("mistakes", "repair").stderr == ""


def test_every_file_that_a_section_names_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("net_of_theirs.py", "theirs.safetensors", "theirs.json"):
        Path(name).write_text("x = 1\n")
    entry = {
        "source": "entrypoint",
        "entrypoint": "net_of_theirs:make",
        "arguments": {"config": "theirs.json"},
        "weights": "theirs.safetensors",
        "layer": "2",
        "early": [],
        "mean": [0.3],
        "std": [0.35],
        "channels": 1,
        "size": None,
    }
    settle(tmp_path, {"dataset": "digits", "ood": []}, {"theirs": entry}, ["glyphs"])
    values = params.load()
    assert custom.state("raw", values) is None  # nothing of the user's
    seen = {custom.state("classifier@theirs", values)}
    for name in ("net_of_theirs.py", "theirs.safetensors", "theirs.json"):
        Path(name).write_text("x = 10\n")
        seen.add(custom.state("classifier@theirs", values))
    assert len(seen) == 4
    Path("theirs.safetensors").unlink()
    assert custom.state("classifier@theirs", values) is None
