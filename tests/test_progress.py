"""Progress is for people at a terminal: a log has none of it."""

import os
import pty
import subprocess
import sys
import termios

CODE = """
from mistakes import progress
for epoch in progress.bar(range(3), "epochs"):
    progress.say(f"epoch {epoch}")
"""
SAID = ["epoch 0", "epoch 1", "epoch 2"]


def test_a_log_has_the_lines_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == SAID
    assert done.stderr == ""


def test_a_terminal_has_a_bar_with_the_time_left() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(ours, "rb", buffering=0):
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            check=True,
            timeout=60,
        )
        os.set_blocking(ours, False)
        shown = os.read(ours, 100_000).decode()
        os.close(theirs)
    assert done.stdout.splitlines() == SAID
    assert "epochs:   0%" in shown
    assert "0/3 [00:00<?" in shown
