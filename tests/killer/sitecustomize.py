"""Python reads this at its start where this folder is on PYTHONPATH: it kills the process at an
event, not at a moment.

The environment says which. KILL_WHO: a part of the command line. KILL_AT: a regular expression for
an audit event of Python with its first two arguments, such as "open data/x w". KILL_COUNT: at which
of those. KILL_LATER: how many function calls after it. KILL_GROUP: whatever started the process
dies with it.
"""

import os
import re
import signal
import sys

count = int(os.environ.get("KILL_COUNT", "1"))
later = int(os.environ.get("KILL_LATER", "0"))


def kill() -> None:
    """End it as a power cut would."""
    os.kill(0 if "KILL_GROUP" in os.environ else os.getpid(), signal.SIGKILL)


def count_calls(*_: object) -> None:
    """A profile function."""
    global later
    later -= 1
    if later <= 0:
        kill()


def watch(event: str, arguments: tuple) -> None:
    """An audit hook."""
    global count
    if event in {"open", "os.rename", "os.mkdir"} and re.search(
        at, " ".join(map(str, (event, *arguments[:2])))
    ):
        count -= 1
        if count == 0:
            sys.setprofile(count_calls) if later else kill()


if os.environ.get("KILL_WHO", "\0") in " ".join(sys.orig_argv):
    at = os.environ["KILL_AT"]
    sys.addaudithook(watch)
