"""Where a project lies: commands from any folder below it, larger repositories, worktrees, other
systems.
"""

import ast
import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import Checkout, duplicate
from commands import ROOT

from mistakes import cli
from mistakes.config import params
from mistakes.errors import InputError
from mistakes.pipeline import environment, journal, project, repair, snapshot

SMOKE = (ROOT / "tests/smoke/params.yaml").read_text()


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Run `mistakes ARGUMENTS` in a folder; return the exit status."""
    with contextlib.chdir(folder), monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["mistakes", *arguments])
        patch.setattr(sys, "path", [*sys.path])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def git(folder: Path, *arguments: str) -> str:
    names = [
        option
        for who in ("user.name", "user.email")
        for option in ("-c", f"{who}=test@example.org")
    ]
    done = subprocess.run(
        ["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def small(folder: Path) -> Path:
    """Make a project as far as git, parameters and commands without results look at it."""
    for name in ("stages", "mistakes", "experiments/deep", "data/report"):
        (folder / name).mkdir(parents=True)
    (folder / "params.yaml").write_text(SMOKE)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "stages" / "raw.py").write_text("'a stage'\n")
    (folder / "mistakes" / "größe mit Raum.py").write_text("'a module'\n")
    (folder / "experiments" / "a.yaml").write_text("flow: {layers: 3}\n")
    return folder


def committed(repository: Path) -> None:
    git(repository, "init", "--quiet", "--initial-branch=main")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=start")


PLACES = [".", "sub/project", "ein Ordner/größe"]


@pytest.fixture(params=PLACES)
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a small project, which is a repository or a part of a larger one."""
    repository = tmp_path / "repository"
    folder = small(repository / request.param)
    (repository / "neighbour.txt").write_text("of another team\n")
    committed(repository)
    return folder


def test_the_project_is_the_nearest_folder_upwards_that_holds_the_pipeline(tmp_path: Path) -> None:
    outer = small(tmp_path / "outer")
    inner = small(outer / "inner")
    (outer / "data" / "report" / "dvc.yaml").write_text(
        "stages: {}\n"
    )  # a pipeline of another kind
    for start, found in {
        outer: outer,
        outer / "experiments" / "deep": outer,
        outer / "data" / "report": outer,
        inner / "stages": inner,
        tmp_path: None,
    }.items():
        with contextlib.chdir(start):
            assert project.find() == found
    (inner / "params.yaml").unlink()  # which `mistakes use` brings back
    with contextlib.chdir(inner / "stages"):
        assert project.find() == inner


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("a.yaml", "experiments/a.yaml"),
        ("../params.yaml", "params.yaml"),
        ("../../b.yaml", "../b.yaml"),
        ("deep/../a.yaml", "experiments/a.yaml"),
        ("/etc/hosts", "/etc/hosts"),
    ],
)
def test_paths_are_those_of_the_folder_in_which_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, seen: str
) -> None:
    folder = small(tmp_path / "project")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with contextlib.chdir(folder / "experiments"):
        here = project.enter()
        assert Path.cwd() == folder
        assert project.moved(Path(typed), here) == Path(seen)
        assert sys.path[0] == str(folder)


@pytest.mark.parametrize("below", ["experiments", "experiments/deep", "data/report"])
def test_use_writes_the_parameters_of_the_project_wherever_it_is_typed(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    typed = Path(*[".."] * len(Path(below).parts), "experiments", "a.yaml")
    assert command(monkeypatch, inside / below, "use", str(typed)) == 0
    assert capsys.readouterr().out == "params.yaml: HEAD + experiments/a.yaml; classifiers: smoke\n"
    assert params.load(inside / "params.yaml").flow.layers == 3
    assert "# Written by `mistakes use experiments/a.yaml`" in (inside / "params.yaml").read_text()
    assert not (inside / below / "params.yaml").exists()
    assert command(monkeypatch, inside / below, "use") == 0
    assert (inside / "params.yaml").read_text() == SMOKE
    assert command(monkeypatch, inside / below, "use", "nowhere.yaml") == 2
    assert capsys.readouterr().err == f"error: {below}/nowhere.yaml: there is no such file\n"


def test_use_brings_back_parameters_that_were_deleted(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "params.yaml").unlink()
    assert command(monkeypatch, inside / "experiments", "use") == 0
    assert (inside / "params.yaml").read_text() == SMOKE


def test_a_file_that_cannot_be_read_or_written_is_one_line(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "params.yaml").unlink()
    (inside / "params.yaml").mkdir()
    for arguments in (["use"], ["use", "--force"], ["results"]):
        assert command(monkeypatch, inside, *arguments) == 2
        lines = [
            line
            for line in capsys.readouterr().err.splitlines()
            if not line.startswith("warning: ")
        ]
        assert lines == [
            line for line in lines if line.startswith("error: ") and "directory" in line.lower()
        ]
        assert len(lines) == 1


@pytest.mark.parametrize("name", ["use", "repair", "publish", "results", "compare", "ui"])
def test_outside_of_any_project_a_command_says_so_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert command(monkeypatch, tmp_path, name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}: there is no project here (")
    assert not list(tmp_path.iterdir())


def test_a_revision_has_the_files_of_the_project_and_the_key_of_the_working_tree(
    inside: Path,
) -> None:
    tree, here = snapshot.GitTree("HEAD", inside), snapshot.WorkTree(inside)
    assert tree.read("params.yaml") == SMOKE.encode()
    assert tree.read("neighbour.txt") == (
        b"of another team\n" if (inside / "neighbour.txt").exists() else None
    )
    assert tree.code() == here.code() == ["mistakes/größe mit Raum.py", "stages/raw.py"]
    assert snapshot.key(tree, "smoke") == snapshot.key(here, "smoke")
    (inside / "params.yaml").write_text(SMOKE.replace("layers: 2", "layers: 3"))
    assert snapshot.key(tree, "smoke") != snapshot.key(here, "smoke")


def test_what_changed_is_told_of_the_project_alone(inside: Path, tmp_path: Path) -> None:
    with contextlib.chdir(inside):
        head = environment.commit()
        assert head == git(inside, "rev-parse", "HEAD")
        assert environment.changed(head) == []
        (tmp_path / "repository" / "neighbour.txt").write_text("changed\n")
        (inside / "params.yaml").write_text("changed\n")
        (inside / "mistakes" / "größe mit Raum.py").write_text("changed\n")
        told = ["mistakes/größe mit Raum.py", "params.yaml"]
        assert environment.changed(head) == sorted(
            [*told, *(["neighbour.txt"] if Path("neighbour.txt").exists() else [])]
        )


def test_a_worktree_and_a_detached_head_are_like_any_other_checkout(
    inside: Path, tmp_path: Path
) -> None:
    other = tmp_path / "another tree"
    git(inside, "worktree", "add", "--quiet", "--detach", str(other))
    folder = other / inside.relative_to(tmp_path / "repository")
    assert snapshot.GitTree("HEAD", folder).rev == git(inside, "rev-parse", "main")
    assert snapshot.key(snapshot.GitTree("main", folder), "smoke") == snapshot.key(
        snapshot.WorkTree(folder), "smoke"
    )
    with contextlib.chdir(folder / "experiments"):
        assert environment.commit() == git(inside, "rev-parse", "main")


@pytest.mark.parametrize("place", PLACES)
def test_before_the_first_commit_revisions_are_refused_and_everything_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    folder = small(tmp_path / "repository" / place)
    assert command(monkeypatch, folder / "experiments", "use", "a.yaml") == 2  # no repository yet
    assert f"error: git: {folder} is in no git repository" in capsys.readouterr().err
    git(tmp_path / "repository", "init", "--quiet")
    assert command(monkeypatch, folder / "experiments", "use", "a.yaml") == 2
    assert "error: git: there is no commit yet, and this needs one" in capsys.readouterr().err
    with contextlib.chdir(folder):
        assert environment.commit() == ""
        assert "stages/raw.py" in environment.changed("")


def test_what_is_no_revision_is_named(inside: Path) -> None:
    with pytest.raises(
        InputError, match="git: 'v9' is neither a git revision nor the name of a DVC experiment"
    ):
        snapshot.GitTree("v9", inside)
    git(inside, "rm", "--quiet", "--cached", "params.yaml")
    git(inside, "commit", "--quiet", "--message=without parameters")
    tree = snapshot.GitTree("HEAD", inside)
    with pytest.raises(InputError, match=rf"params.yaml of {tree.rev[:8]}: there is no such file"):
        snapshot.configuration(tree)


def test_a_machine_without_git_is_told_so(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(inside))
    with pytest.raises(InputError, match="git: it is not installed"):
        snapshot.GitTree("HEAD", inside)
    assert environment.commit() == ""


def test_a_lock_that_was_cut_short_is_put_back_from_the_folder_s_own_commit(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = "schema: '2.0'\nstages:\n  raw:\n    cmd: python -m stages.raw\n"
    (inside / "dvc.lock").write_text(lock)
    git(inside, "add", "--all")
    git(inside, "commit", "--quiet", "--message=results")
    (inside / "dvc.lock").write_text(lock[:30])
    assert command(monkeypatch, inside / "data" / "report", "repair") == 0
    assert (inside / "dvc.lock").read_text() == lock
    assert repair.repair(inside) == []


def test_the_journal_lies_where_dvc_has_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is above the project where the larger repository is DVC's too."""
    folder = small(tmp_path / "repository" / "sub" / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with contextlib.chdir(folder):
        assert journal.root() == folder
        (tmp_path / "repository" / ".dvc").mkdir()
        assert journal.root() == tmp_path / "repository"
        (folder / ".dvc").mkdir()  # dvc init --subdir
        assert journal.root() == folder
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        assert journal.root() == tmp_path


# systems


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024), ("freebsd14", 1024)])
def test_peak_memory_is_in_the_unit_of_the_system(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    import resource

    class Usage:
        ru_maxrss = 300 * 2**20 // unit

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda _: Usage)
    assert environment.peak_memory() == 300


def test_peak_memory_of_this_process_is_what_the_system_says() -> None:
    lines = Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else []
    if not lines:
        pytest.skip("only Linux has /proc")
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert environment.peak_memory() == pytest.approx(kib / 1024, rel=0.1)


def test_modules_that_windows_lacks_are_imported_inside_of_functions_only() -> None:
    for path in [*(ROOT / "mistakes").glob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {"fcntl", "resource"} & set(names), path


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("fcntl", ["stages.raw", "data/raw"]),
        ("resource", ["stages.raw"]),
        ("fcntl", ["mistakes", "ui"]),
    ],
)
def test_a_system_without_locks_is_refused_in_one_line(
    tmp_path: Path, missing: str, arguments: list[str]
) -> None:
    blocked = f"import sys; sys.modules['{missing}'] = None; "
    name, *rest = arguments
    start = "from mistakes.cli import main" if name == "mistakes" else f"from {name} import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}{start}; sys.argv = {[name, *rest]}; main()"],
        cwd=small(tmp_path / "project"),
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    told = (
        "it runs on Linux and macOS, and on Windows in WSL 2 (this Python lacks the module fcntl or"
        " resource)"
    )
    assert done.stderr == f"error: mistakes: {told}\n"
    assert not (tmp_path / "project" / "data" / "raw").exists()


# with results


@pytest.fixture(scope="module")
def larger(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The reproduced project in a folder of a larger repository, as `dvc init --subdir` leaves it,
    with an experiment.

    In the experiment, which ran in a temporary copy, only detection and what follows ran.
    """
    repository = tmp_path_factory.mktemp("larger") / "ein Archiv"
    copy = duplicate(
        reproduced,
        repository / "sub" / "project",
        ".git",
        ".dvc/config",
        "mlflow.db",
        "mlartifacts",
    )
    (repository / "neighbour.txt").write_text("of another team\n")
    Checkout(repository).run("git", "init", "--quiet", "--initial-branch=main")
    shutil.move(copy.folder / ".dvc", repository / "kept")
    copy.run("dvc", "init", "--subdir", "--quiet")
    shutil.copytree(
        repository / "kept" / "cache", copy.folder / ".dvc" / "cache", dirs_exist_ok=True
    )
    shutil.copytree(
        repository / "kept" / "plots", copy.folder / ".dvc" / "plots", dirs_exist_ok=True
    )
    shutil.rmtree(repository / "kept")
    copy.run("git", "add", "--all", str(repository))
    copy.run("git", "commit", "--quiet", "--message=the project comes into a larger repository")
    copy.run("dvc", "exp", "run", "--temp", "--name", "wide", "-S", "detection.alpha=1e-1")
    return copy


@pytest.mark.slow
def test_in_a_larger_repository_everything_is_as_at_the_root(larger: Checkout) -> None:
    below = Checkout(larger.folder / "data" / "report")
    assert below.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "published HEAD" in below.run("mistakes", "publish", "HEAD").stdout
    head = below.run("git", "rev-parse", "HEAD").stdout.strip()
    shown = below.run("mistakes", "show", "smoke").stdout
    assert re.search(rf"^commit +{head}$", shown, re.MULTILINE)
    key = snapshot.key(snapshot.GitTree("HEAD", larger.folder), "smoke")
    (row,) = larger.runs(level="pipeline", content_key=key)
    assert row.data.tags["git.commit"] == head
    assert row.data.tags["git.changed"] == "nothing"
    assert "| H1 |" in below.run("mistakes", "results").stdout
    assert (
        below.run(
            "bash", "-c", "mistakes results | head -c 1; exit ${PIPESTATUS[0]}", check=False
        ).stderr
        == ""
    )
    assert below.run("git", "status", "--porcelain", str(larger.folder.parents[1])).stdout == ""


@pytest.mark.slow
def test_in_a_larger_repository_an_experiment_leads_to_its_commit(larger: Checkout) -> None:
    below = Checkout(larger.folder / "experiments")
    (ref,) = below.run(
        "git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/wide"
    ).stdout.split()
    shown = below.run("mistakes", "show", "wide/smoke").stdout
    assert re.search(rf"^commit +{ref}$", shown, re.MULTILINE)
    (made,) = larger.runs(level="stage", stage="detection")
    assert made.data.metrics["peak_memory_mb"] < 10_000
    (row,) = [run for run in larger.runs(level="pipeline") if run.info.run_name == "wide/smoke"]
    assert all(not path.startswith(("sub/", "..")) for path in row.data.tags["git.changed"].split())
    assert "published wide" in below.run("mistakes", "publish", "wide").stdout


@pytest.mark.slow
def test_a_guard_answers_in_any_folder_about_the_files_there(
    larger: Checkout, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.load(larger.folder / "data/images/test/images.npy")[0, 0]).save(
        tmp_path / "a.png"
    )
    shutil.copytree(larger.folder / "data/guard/smoke/model", tmp_path / "model")
    outside = Checkout(tmp_path).run("mistakes", "check", "model", "a.png").stdout
    assert outside.splitlines()[1].startswith("a.png,")
    shutil.copy(tmp_path / "a.png", larger.folder / "data/report/a.png")
    within = (
        Checkout(larger.folder / "data/report")
        .run("mistakes", "check", "../guard/smoke/model", "a.png")
        .stdout
    )
    (larger.folder / "data/report/a.png").unlink()
    assert within == outside


@pytest.mark.slow
def test_a_stage_typed_in_a_subfolder_takes_paths_from_there(larger: Checkout) -> None:
    below = Checkout(larger.folder / "data" / "images")
    below.run(
        sys.executable, "-m", "stages.images", "../raw", "../again", PYTHONPATH=str(larger.folder)
    )
    assert (larger.folder / "data/again/classes.json").read_bytes() == (
        below.folder / "classes.json"
    ).read_bytes()
    shutil.rmtree(larger.folder / "data/again")
    assert not (below.folder / "data").exists()


def test_docstrings_name_the_error_that_is_raised() -> None:
    """A caller catches what the docstring says: InputError of a file, ArgumentError of a value."""
    wrong = []
    for path in sorted((ROOT / "mistakes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            said = isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
            if not said or "Raises" not in said:
                continue
            raised = {
                getattr(inner.exc.func, "id", "")
                for inner in ast.walk(node)
                if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call)
            } & {"InputError", "ArgumentError"}
            wrong += [f"{path.name}: {node.name}: {kind}" for kind in raised if kind not in said]
    assert wrong == []
