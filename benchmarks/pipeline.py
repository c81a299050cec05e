"""Every stage once, in the folder where one stands: seconds, memory, and how busy the GPU was.

python -m benchmarks.pipeline [--device cuda] [STAGE ...]
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

FORGET = ("report", "track")  # they read the project's history, which is not what is measured


def commands(classifiers: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and command of each stage, in the order of dvc.yaml, which is one to run them in.

    A stage that DVC repeats for each classifier is repeated here.
    """
    for name, stage in yaml.safe_load(Path("dvc.yaml").read_text())["stages"].items():
        for key in classifiers if "foreach" in stage else [""]:
            cmd = stage.get("do", stage)["cmd"].replace("${key}", key)
            yield f"{name}@{key}" if key else name, cmd


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[float, float]]]:
    """Collect utilisation, per cent, and memory, MiB, of the first GPU, five times a second."""
    seen: list[tuple[float, float]] = []
    if not shutil.which("nvidia-smi"):
        yield seen
        return
    query = "nvidia-smi -i 0 --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits"
    watch = subprocess.Popen([*query.split(), "-lms", "200"], stdout=subprocess.PIPE, text=True)
    try:
        yield seen
    finally:
        watch.terminate()
        rows = (watch.communicate()[0] or "").splitlines()
        seen += [(float(a), float(b)) for a, b in (row.split(",") for row in rows if "," in row)]


def measure(name: str, cmd: str) -> str:
    """Run the command of a stage, with an empty output folder, and return its row of the table."""
    python, *arguments = shlex.split(cmd)
    assert python == "python"
    Path(arguments[-1]).mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with watched() as seen:
        process = subprocess.Popen([sys.executable, *arguments])
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}")
    took = f"{time.perf_counter() - started:.1f} | {used.ru_maxrss / 1e6:.2f}"
    if not seen:
        return f"| {name} | {took} | | |"
    busy, memory = np.array(seen).T
    return f"| {name} | {took} | {busy.mean():.0f} | {memory.max() / 1024:.1f} |"


def main() -> None:
    """Print a Markdown table with a row for each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("stages", nargs="*", help="default: all but report and track")
    options = parser.parse_args()
    params = yaml.safe_load(Path("params.yaml").read_text())
    if options.device:
        params["device"] = options.device
        Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    rows = ["| stage | s | GB | GPU, % | GPU, GB |", "| --- | --- | --- | --- | --- |"]
    for name, cmd in commands(list(params["classifiers"])):
        stage = name.split("@")[0]
        if stage in options.stages if options.stages else stage not in FORGET:
            rows.append(measure(name, cmd))
            print(rows[-1], flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
