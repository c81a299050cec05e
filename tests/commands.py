"""Stages as a user runs them, but in the process of the tests, which saves the imports of another
one.
"""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
SMOKE = (ROOT / "tests" / "smoke" / "params.yaml").read_text()


def run(folder: Path, stage: str, *paths: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m stages.STAGE PATHS`` in ``folder``; return exit status and output, as a
    process would.
    """
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "DVC"))
    }
    command = importlib.import_module(f"stages.{stage}").main
    handler, status, out, err = signal.getsignal(signal.SIGTERM), 0, io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, clean | env, clear=True),
        mock.patch.object(sys, "argv", [stage, *paths]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        finally:
            signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess([stage, *paths], status, out.getvalue(), err.getvalue())


def process(folder: Path, stage: str, *paths: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = (
        {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC"))}
        | {"PYTHONPATH": str(ROOT)}
        | env
    )
    command = [sys.executable, "-m", f"stages.{stage}", *paths]
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
