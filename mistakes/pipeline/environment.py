"""What a stage runs with: operating system, interpreter, package versions, git commit, memory.

For MLflow alone: no hashed file may hold them.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from mistakes.errors import InputError


def require_system() -> None:
    """Raise InputError where the operating system has no file locks and no account of memory, as
    Windows has not.
    """
    try:
        import fcntl  # noqa: F401
        import resource  # noqa: F401
    except ImportError:
        problem = (
            "it runs on Linux and macOS, and on Windows in WSL 2 (this Python lacks the module"
            " fcntl or resource)"
        )
        raise InputError("mistakes", problem) from None


def peak_memory() -> float:
    """Return the largest memory that this process had so far, in units of 2**20 bytes."""
    import resource  # not there on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, others KiB


def packages() -> str:
    """Return interpreter and platform, a comment, and a line NAME==VERSION for each package that
    can be imported.

    Read from the names of folders, which takes milliseconds; without this project itself.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        for path in Path(folder).glob("*.dist-info"):
            name, _, version = path.stem.partition("-")
            # what is found first is imported
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    found.pop("mistakes", None)
    head = f"# python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return (
        "\n".join([head, *(f"{name}=={version}" for name, version in sorted(found.items()))]) + "\n"
    )


def digest(text: str) -> str:
    """Return 16 hexadecimal digits for an environment."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def commit() -> str:
    """Return the commit that the working tree stands on; in a DVC experiment its baseline; empty
    without git.
    """
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    return baseline or _git("rev-parse", "--verify", "--quiet", "HEAD").strip()


def changed(since: str) -> list[str]:
    """Return the files of the project that differ from the commit ``since``; before the first
    commit, all files.
    """
    if since:
        return _git("diff", "--name-only", "--relative", "-z", since).split("\0")[:-1]
    return _git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")[:-1]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:  # the project as an archive, on a machine without git
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
