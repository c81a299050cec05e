"""Forked commands are what users start: the same output and exit status, in the same folder."""

import subprocess
from pathlib import Path

import pytest
from checkouts import Checkout
from commands import ROOT


@pytest.mark.parametrize(
    "command",
    [
        ("python", "-m", "stages.breaks", "an argument"),
        ("python", "-m", "stages.ends"),
        ("python", "-c", "import sys; print(sys.argv, sys.executable); sys.exit('no')"),
        ("mistakes", "nonsense"),
        ("mistakes", "check", "nowhere", "a.png"),
        ("dvc", "status", "nothing"),
    ],
)
def test_a_forked_command_says_what_a_new_process_says(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/breaks.py").write_text("import sys\nraise ValueError(sys.argv[1:])")
    (tmp_path / "stages/ends.py").write_text("import sys\nprint('out')\nsys.exit('why')")
    forked, plain = (
        subprocess.run(
            command,
            cwd=tmp_path,
            env=Checkout(ROOT).env | {"PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        for path in (Checkout(ROOT).env["PATH"], Checkout(ROOT).plain_path)
    )
    assert forked.returncode == plain.returncode != 0
    assert forked.stdout == plain.stdout
    assert forked.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]


def test_a_forked_command_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/slow.py").write_text("import time\nprint('on', flush=True)\ntime.sleep(99)")
    command = ["python", "-m", "stages.slow"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=Checkout(ROOT).env, stdout=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None
        assert ran.stdout.readline() == b"on\n"
        ran.terminate()
        assert ran.wait(timeout=60) == 128 + 15


def test_what_python_reads_as_it_starts_is_read(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('read')")
    env = Checkout(ROOT).env | {"PYTHONPATH": str(tmp_path)}
    command = ["python", "-m", "stages.raw"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "read\n"
