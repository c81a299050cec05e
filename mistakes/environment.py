"""What a stage ran with: interpreter, package versions, git commit. For MLflow alone: no hashed file may hold them."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path


def packages() -> str:
    """Return interpreter and platform, a comment, and a line NAME==VERSION for each package that can be imported.

    Read from the names of folders, which takes milliseconds; without this project itself.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        for path in Path(folder).glob("*.dist-info"):
            name, _, version = path.stem.partition("-")
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)  # what is found first is imported
    found.pop("mistakes", None)
    head = f"# python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return "\n".join([head, *(f"{name}=={version}" for name, version in sorted(found.items()))]) + "\n"


def digest(text: str) -> str:
    """Return 16 hexadecimal digits for an environment."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def commit() -> str:
    """Return the commit that the working tree stands on; in a DVC experiment its baseline; empty without git."""
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    return baseline or _git("rev-parse", "--verify", "--quiet", "HEAD")


def changed(since: str) -> list[str]:
    """Return the tracked files that differ from the commit ``since``."""
    return _git("diff", "--name-only", since).splitlines() if since else []


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # the project as an archive, on a machine without git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
