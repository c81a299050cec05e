"""The runner of stages: arguments, parameters, whole outputs or none, one line for bad input, the
journal.

Holds no default and changes no artifact, so dvc.yaml does not list it as a dependency.
"""

import errno
import functools
import hashlib
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from mistakes import progress
from mistakes.artifacts import save_json
from mistakes.config import classifiers, params
from mistakes.errors import ArgumentError, InputError
from mistakes.pipeline import custom, environment, journal, project, snapshot

if TYPE_CHECKING:
    import torch

    from mistakes.pipeline.mlflow_store import Live

# completes the rows. DVC skips it where all came out as dvc.lock says, as in a fresh clone
LAST = "track"
Metrics = Mapping[str, float | int | str | bool | None]


class Run:
    """What a stage may know beside its input files: the parameters, the device, and where curves
    go.
    """

    def __init__(
        self, stage: str, name: str | None, values: params.Params, journaled: bool
    ) -> None:
        self.stage = stage
        self.name = name
        self.params = values
        self._execution: journal.Execution | None = None
        self._live: Live | None = None
        self._notes: dict[str, float] = {}
        self.warnings: list[str] = []
        if journaled and ("DVC_ROOT" in os.environ or "MLFLOW_TRACKING_URI" in os.environ):
            first = next(iter(values.classifiers))
            key = snapshot.progress_key(snapshot.WorkTree(), name or first)
            self._execution = journal.Execution(
                stage, name, key, environment.packages(), environment.commit()
            )

    @property
    def classifier(self) -> classifiers.Classifier:
        """The section of the classifier that this run is for; raises InputError where params.yaml
        has none.
        """
        if self.name not in self.params.classifiers:
            raise InputError(
                "params.yaml", "classifiers", list(self.params.classifiers), f"a key {self.name!r}"
            )
        return self.params.classifiers[self.name]

    @property
    def device(self) -> "torch.device":
        """The device of params.yaml; ``auto`` is CUDA where there is one. Raises InputError where
        it is absent.
        """
        from mistakes import devices  # torch, which not every stage needs

        return devices.choose(self.params.device, "params.yaml")

    def log(self, step: int, **metrics: float) -> None:
        """Add a point to the curves of this execution; MLflow shows it at once."""
        values = " ".join(f"{key} {value:.4f}" for key, value in metrics.items())
        progress.say(f"{self.stage}: {step} {values}")
        if self._execution is None:
            return
        self._execution.metrics(step, metrics)
        if self._live is None:  # imported here, so that stages without curves do not pay for MLflow
            from mistakes.pipeline.mlflow_store import Live

            self._live = Live(self._execution)
        self._live.ship()

    def note(self, **numbers: float) -> None:
        """Keep numbers for MLflow alone, such as seconds and bytes, which no file may hold;
        ``close`` tells them.
        """
        self._notes |= numbers

    def warn(self, sentence: str) -> None:
        """Say what a reader of the results must know: printed now, written to warnings.json, shown
        in the report.
        """
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
        self.warnings.append(sentence)

    def check_attacks(self) -> None:
        """Raise InputError where advertorch cannot make the attacks of params.yaml.

        Stage classifier asks too, for else they were refused after all the training; what it makes
        does not depend on them, so they are no parameters of it.
        """
        from mistakes.attacks import adversaries

        section = self.params.adversarial
        for name, attack in section.attacks.items():
            adversaries.check(attack.attack, attack.arguments, f"adversarial.attacks.{name}")
        unbounded = section.sanity.unbounded
        adversaries.check(unbounded.attack, unbounded.arguments, "adversarial.sanity.unbounded")

    def scratch(self, *key: object) -> Path:
        """Return a path for a checkpoint that outlives a kill; another ``key`` (parameters, data)
        is another path.
        """
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return journal.local("scratch", f"{self.stage}-{self.name}-{digest}")

    def close(
        self, status: str, metrics: Metrics, outputs: Mapping[str, str] | None = None
    ) -> None:
        """Tell the journal, and after a failure MLflow too, how the execution ended; ``outputs``
        are md5s by path.
        """
        if self._execution is None:
            return
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        usage = {"peak_memory_mb": environment.peak_memory()}
        self._execution.end(status, metrics=numbers | self._notes | usage, outputs=outputs)
        if self._live is not None or status != "FINISHED":
            from mistakes.pipeline.mlflow_store import ship_pending

            ship_pending()


def stage(function: Callable[..., Metrics | None]) -> Callable[[], None]:
    """Make a command of ``main(run, INPUT..., out)`` in stages/NAME.py; the command line gives the
    paths in that order.

    ``out`` is an empty temporary folder whose files move to the folder named last on the command
    line when the function returns; the metrics it returns become metrics.json there, and what it
    warned of warnings.json. A function without ``out`` writes nothing. Exit status: 0 done, 1 a bug
    (traceback), 2 bad input (one line), 143 terminated; nothing is left half-written.
    """
    names = list(inspect.signature(function).parameters)[1:]
    stage_name = Path(inspect.getfile(function)).stem

    @functools.wraps(function)
    def command() -> None:
        signal.signal(signal.SIGTERM, _terminated)
        try:
            environment.require_system()
            if len(sys.argv) - 1 != len(names):
                usage = " ".join(["python -m", f"stages.{stage_name}", *map(str.upper, names)])
                raise InputError(
                    "command line", "arguments", " ".join(sys.argv[1:]) or "none", usage
                )
            here = project.enter() if project.find() else Path.cwd()
            paths = [project.moved(Path(path), here) for path in sys.argv[1:]]
            _execute(stage_name, function, dict(zip(names, paths, strict=True)))
        except InputError as error:
            sys.exit(_refuse(str(error)))
        except OSError as error:
            sys.exit(_refuse(f"{error.filename or stage_name}: {error.strerror or error}"))

    return command


def _execute(
    stage_name: str, function: Callable[..., Metrics | None], paths: dict[str, Path]
) -> None:
    started = time.monotonic()
    name = _classifier_name(stage_name, paths)
    run = Run(stage_name, name, params.load(), journaled="out" in paths)
    whole = f"{stage_name}@{name}" if name else stage_name
    files = custom.state(whole, run.params) if "DVC_ROOT" in os.environ else None
    try:
        metrics = dict(_write_whole(run, function, paths) or {})
    except BaseException:
        try:
            run.close("FAILED", {"seconds": time.monotonic() - started})
        except (InputError, OSError) as error:  # must not hide why the stage failed
            print(f"warning: {error}", file=sys.stderr, flush=True)
        raise
    outputs = snapshot.written(paths["out"]) if "out" in paths and "DVC_ROOT" in os.environ else {}
    run.close("FINISHED", metrics | {"seconds": time.monotonic() - started}, outputs)
    if files is not None:
        custom.remember(whole, files, outputs)
    seconds, peak = time.monotonic() - started, environment.peak_memory()
    print(f"{stage_name}: done in {seconds:.1f} s, peak memory {peak:.0f} MB", flush=True)
    if "DVC_ROOT" in os.environ and "out" in paths and snapshot.unchanged_for(LAST, paths["out"]):
        done = subprocess.run([sys.executable, "-m", f"stages.{LAST}"], check=False)
        sys.exit(done.returncode)


def _write_whole(
    run: Run, function: Callable[..., Metrics | None], paths: dict[str, Path]
) -> Metrics | None:
    if "out" not in paths:
        return function(run, **paths)
    out = paths["out"]
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed run may have left one
    try:
        temporary.mkdir(parents=True)
        metrics = function(run, **paths | {"out": temporary})
        if metrics is not None:
            save_json(temporary / "metrics.json", metrics)
            save_json(temporary / "warnings.json", run.warnings)
        out.mkdir(parents=True, exist_ok=True)
        for part in temporary.iterdir():
            if part.is_dir():
                shutil.rmtree(out / part.name, ignore_errors=True)
            os.replace(part, out / part.name)
        return metrics
    except ArgumentError as error:
        raise located(error, run) from None
    except Exception as error:
        # NumPy and safetensors each have words of their own for a full disk
        if not isinstance(error, InputError) and shutil.disk_usage(out.parent).free < 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def located(error: ArgumentError, run: Run) -> InputError:
    """Return what the library refused with the key of params.yaml that its argument came from.

    That is the key of this name in the classifier's entry or in the section of the stage, and else
    in the first section that has one.
    """
    name = re.split(r"[^a-z_0-9]", error.argument, maxsplit=1)[0]
    if run.stage == "classifier":
        sections: dict[str, object] = {f"classifiers.{run.name}": run.classifier}
    else:
        sections = {run.stage: getattr(run.params, run.stage, None)}
    sections |= {key: getattr(run.params, key) for key in type(run.params).model_fields}
    for key, section in sections.items():
        if name in getattr(type(section), "model_fields", {}):
            return InputError("params.yaml", f"{key}.{error}")
    return InputError("params.yaml", str(error))


def _classifier_name(stage_name: str, paths: dict[str, Path]) -> str | None:
    """Return NAME where the output folder is data/STAGE/NAME, and None where it is data/STAGE."""
    out = paths.get("out")
    return out.name if out is not None and out.parent.name == stage_name else None


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)
