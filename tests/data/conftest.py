"""Stages that run where the test is."""

from pathlib import Path

import pytest
from commands import run
from image_stages import Stages


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Run a stage in tmp_path, where the test is too; return what it printed, or its one line of
    refusal.
    """
    monkeypatch.chdir(tmp_path)

    def in_it(name: str, *paths: str, refused: bool = False) -> str:
        done = run(tmp_path, name, *paths)
        assert done.returncode == (2 if refused else 0), done
        if not refused:
            return done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert not Path(paths[-1]).exists()
        return line

    return in_it
