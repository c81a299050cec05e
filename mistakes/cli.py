"""The command ``mistakes``: choose an experiment, ask a guard, print results, trace MLflow rows,
open the MLflow UI.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistakes.errors import ArgumentError, InputError
from mistakes.pipeline import environment, project

if TYPE_CHECKING:
    from mistakes.pipeline import custom


def use(paths: list[Path], base: str, force: bool) -> None:
    """Write params.yaml: the committed one with the overlays named; without any, the committed one
    itself.
    """
    from mistakes.config import params
    from mistakes.pipeline import overlays

    overlays.use(paths, base, force)
    print(
        f"params.yaml: {' + '.join([base, *map(str, paths)])}; classifiers:"
        f" {', '.join(params.load().classifiers)}"
    )


def check(
    model: Path,
    paths: list[Path],
    alpha: float | None,
    fdr: float | None,
    error: float | None,
    trust: bool,
    skip_corrupt: bool,
    device: str,
) -> None:
    """Print the guard's answer to new images (or files of features and logits) as CSV: a row for
    each input.
    """
    from mistakes.serving import guard_model, predict_files

    here = project.find()
    if here and model.resolve().is_relative_to(here.resolve() / "data" / "guard"):
        with contextlib.chdir(here):  # a name: what stands there may be of another day
            _warn_of_other_results()
    if trust:  # an entry point may lie in the folder where one stands, or in the project's
        sys.path[:0] = ["", str(project.find() or "")]
    answer, left_out = predict_files.check(
        guard_model.load(model, trust, device), paths, alpha, skip_corrupt, fdr, error
    )
    print(answer.to_csv(index=False, float_format="%.6g", lineterminator="\n"), end="")
    print(
        f"flagged {answer['flagged'].sum()} of {len(answer)}; left out {len(left_out)}",
        file=sys.stderr,
    )
    for name in left_out[:5]:
        print(f"left out: {name}", file=sys.stderr)


def repair() -> None:
    """Mend what dvc repro does not see: a dvc.lock that a kill cut short, and own files that
    changed, to be read again.

    Does nothing where there is nothing of the kind.
    """
    from mistakes.pipeline import repair

    for sentence in repair.repair():
        print(f"repaired {sentence}", file=sys.stderr)
    for stage, change in _changed().items():
        print(change.sentence, file=sys.stderr, flush=True)
        if change.readable:
            command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage]
            if subprocess.run(command, check=False).returncode != 0:
                raise InputError(stage, "it could not be run again (dvc repro says why)")


def publish(revisions: list[str]) -> None:
    """Tell MLflow what it missed, and rebuild the rows of git revisions or DVC experiments
    (default: what is here).
    """
    os.environ.setdefault("TRACKING_STRICT", "1")  # here telling MLflow is the whole point
    from mistakes.pipeline import mlflow_rows, mlflow_store, snapshot
    from mistakes.report import plots

    mlflow_store.ship_pending()
    for revision in revisions or [""]:
        tree = snapshot.GitTree(revision) if revision else snapshot.WorkTree()
        experiment = tree.experiment if isinstance(tree, snapshot.GitTree) else None
        dvc = {"DVC_EXP_NAME": experiment} if experiment else {}
        without_row, lacking = mlflow_rows.complete(tree, dvc, plots.figures)
        for sentence in [*without_row, *lacking]:
            print(f"warning: {sentence}", file=sys.stderr)
        if revision and without_row:
            raise InputError(revision, "it is not published, or not all of it")
        if not without_row:
            print(
                f"published {revision} ({tree.rev[:8]})"
                if tree.rev
                else "published the working tree"
            )


def show(what: Path | str) -> None:
    """Trace a run, or the file that it made, to commit, hashes and environment, and print how to
    get it back.
    """
    from mistakes.pipeline import lineage

    print(lineage.describe(str(what)), end="")


def ui(port: int) -> None:
    """Print the address of the run table and serve the MLflow UI on this project's store."""
    from mistakes.pipeline import mlflow_store, mlflow_views

    store = mlflow_store.Store()
    with mlflow_store.tolerated():  # who may only read sees the table as others left it
        mlflow_views.prepare(store.client, store.experiment)
    address = (
        mlflow_store.uri() if mlflow_store.uri().startswith("http") else f"http://127.0.0.1:{port}"
    )
    print(f"open {mlflow_views.address(address, store.experiment)} (table)")
    compared = mlflow_views.compare_address(address, store.experiment)
    print(f"or   {compared} (charts of the rows that are not hidden)", flush=True)
    if not mlflow_store.uri().startswith("http"):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "ui",
            "--backend-store-uri",
            mlflow_store.uri(),
            "--port",
            str(port),
        ]
        os.execv(sys.executable, command)


def _changed() -> "dict[str, custom.Change]":
    from mistakes.pipeline import custom

    # as in the stages: an entry point may lie in the folder where one stands
    sys.path.insert(0, "")
    try:
        return custom.changed()
    finally:
        sys.path.remove("")


def _warn_of_other_results() -> None:
    """Say where the files in data are not what the present parameters, code and data give."""
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--quiet"], check=False
    ).returncode
    if status == 1:
        print(
            "warning: not what params.yaml and code now say, until dvc repro has run (dvc status)",
            file=sys.stderr,
        )
    elif status != 0 and project.find():
        print(
            "warning: whether these are the present results is not known: dvc status fails",
            file=sys.stderr,
        )
    for change in _changed().values():
        print(f"warning: {change.sentence}", file=sys.stderr)


def results(names: list[str]) -> None:
    """Print the results of classifiers as Markdown tables, as in README.md."""
    from mistakes.config import params
    from mistakes.report import markdown

    _warn_of_other_results()
    values = params.load()
    for name in names or values.classifiers:
        print(markdown.markdown(Path("data"), name, values))


def compare(names: list[str]) -> None:
    """Print classifiers side by side as Markdown tables: hypotheses and main scores."""
    from mistakes.config import params
    from mistakes.report import markdown

    _warn_of_other_results()
    values = params.load()
    print(markdown.comparison(Path("data"), names or list(values.classifiers), values), end="")


def seeds(names: list[str]) -> None:
    """Print the mean over several runs of a classifier, with intervals over runs and images."""
    from mistakes.config import params
    from mistakes.evaluation import repeated_runs, score_table
    from mistakes.evaluation.detection import Settings

    _warn_of_other_results()
    section = params.load().detection
    tables = {
        name: score_table.load(Path("data/scores") / name / "scores.parquet") for name in names
    }
    scores = score_table.scores(next(iter(tables.values())))
    settings = Settings(section.alpha, section.bootstrap, section.confidence_level, section.seed)
    print(
        repeated_runs.markdown(
            repeated_runs.across(tables, scores, settings), len(tables), section.confidence_level
        ),
        end="",
    )


_NAMES = {"nargs": "*", "metavar": "NAME", "help": "classifiers; all where none is named"}
_ARGUMENTS: dict[Callable[..., None], dict[str, dict[str, Any]]] = {
    use: {
        "paths": {
            "nargs": "*",
            "type": Path,
            "metavar": "OVERLAY",
            "help": "such as experiments/seeds.yaml",
        },
        "--base": {
            "default": "HEAD",
            "metavar": "REV",
            "help": "git revision whose params.yaml is changed",
        },
        "--force": {"action": "store_true", "help": "lose edits of params.yaml"},
    },
    check: {
        "model": {
            "type": Path,
            "metavar": "GUARD",
            "help": "data/guard/NAME/model, or a copy of it",
        },
        "paths": {
            "nargs": "+",
            "type": Path,
            "metavar": "PATH",
            "help": "image, or folder of images",
        },
        "--alpha": {
            "type": float,
            "help": "rate of correct inputs that may be flagged (default: the guard's)",
        },
        "--fdr": {
            "type": float,
            "help": "judge all inputs together: share of the flagged that may be flagged wrongly",
        },
        "--error": {
            "type": float,
            "help": "flag what must be left out so that at most this share of the rest is wrong",
        },
        "--trust": {
            "action": "store_true",
            "help": "run the code that a custom classifier names or holds",
        },
        "--skip-corrupt": {
            "action": "store_true",
            "help": "leave out images that cannot be read",
        },
        "--device": {
            "choices": ["auto", "cpu", "cuda"],
            "default": "auto",
            "help": "what it computes on (default: auto, CUDA where there is one)",
        },
    },
    repair: {},
    publish: {
        "revisions": {
            "nargs": "*",
            "metavar": "REV",
            "help": "git revision, or name of a DVC experiment",
        }
    },
    show: {
        "what": {
            "type": lambda what: Path(what) if Path(what).exists() else what,
            "metavar": "RUN",
            "help": "id or name of an MLflow run, or the path of an artifact",
        }
    },
    results: {"names": _NAMES},
    compare: {"names": _NAMES},
    seeds: {
        "names": {
            "nargs": "+",
            "metavar": "NAME",
            "help": "classifiers that differ in their seed alone",
        }
    },
    ui: {"--port": {"type": int, "default": 5000}},
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mistakes", description="Find out where a classifier fails."
    )
    commands = parser.add_subparsers(required=True)
    for function, arguments in _ARGUMENTS.items():
        command = commands.add_parser(
            function.__name__, help=function.__doc__, description=function.__doc__
        )
        command.set_defaults(run=function)  # its arguments are named like the function's
        for name, how in arguments.items():
            command.add_argument(name, **how)
    return parser


def _at_project(arguments: dict[str, Any]) -> dict[str, Any]:
    """Go to the folder of the project, and return the arguments with paths that lead from there."""
    here = project.enter()

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(part) for part in value]
        return project.moved(value, here) if isinstance(value, Path) else value

    return {name: moved(value) for name, value in arguments.items()}


def main() -> None:
    """Run the command from any folder of a project; bad input is one line and exit status 2."""
    arguments = vars(_parser().parse_args())
    run = arguments.pop("run")
    try:
        environment.require_system()
        # a guard is used outside of projects too
        run(**arguments if run is check else _at_project(arguments))
    except (InputError, ArgumentError) as error:
        sys.exit(_refuse(str(error)))
    except BrokenPipeError:  # such as: mistakes results | head
        # what is left cannot be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(_refuse(f"{error.filename or 'mistakes'}: {error.strerror or error}"))
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
