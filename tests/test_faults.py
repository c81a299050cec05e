"""Kills at random moments and a full disk: `dvc repro` ends with the bytes of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import servers
import yaml
from conftest import ROOT, Checkout, duplicate

DEFINED = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = [f"{name}@smoke" if "foreach" in stage else name for name, stage in DEFINED.items() if name != "track"]


@pytest.fixture(scope="module")
def victim(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return duplicate(reproduced, tmp_path_factory.mktemp("faults") / "victim", "mlflow.db", "mlartifacts")


@pytest.fixture(scope="module")
def seconds(reproduced: Checkout) -> dict[str, float]:
    """How long each stage took undisturbed, without its imports."""
    return {run.data.tags["stage"]: run.data.metrics["seconds"] for run in reproduced.runs(level="stage")}


def outputs(checkout: Checkout, name: str) -> dict[str, bytes]:
    lock = yaml.safe_load((checkout.folder / "dvc.lock").read_text())["stages"][name]
    paths = [checkout.folder / out["path"] for out in lock["outs"]]
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    return {file.relative_to(checkout.folder).as_posix(): file.read_bytes() for file in files}


def killed(checkout: Checkout, command: list[str], after: float, whole: bool) -> None:
    """SIGKILL the stage that ``command`` starts ``after`` seconds into its own process; ``whole``: DVC with it."""
    running = subprocess.Popen(
        command, cwd=checkout.folder, env=checkout.env | {"DVC_ROOT": str(checkout.folder)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def stage() -> psutil.Process | None:
        try:
            family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
            return next((one for one in family if "-m stages." in " ".join(one.cmdline()[:3])), None)
        except psutil.Error:
            return None

    servers.until(lambda: stage() or running.poll() is not None, "the stage")
    found = stage()
    if found is not None:
        time.sleep(max(0.0, found.create_time() + after - time.time()))
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # where it was quicker than that
            os.killpg(running.pid, signal.SIGKILL) if whole else found.kill()
    running.wait()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_killed_at_three_random_moments_ends_with_the_same_bytes(
    victim: Checkout, seconds: dict[str, float], name: str
) -> None:
    undisturbed = outputs(victim, name)
    assert undisturbed
    alone = ["dvc", "repro", "--single-item", "--force", name]  # or DVC takes the result from its cache
    command = yaml.safe_load((victim.folder / "dvc.lock").read_text())["stages"][name]["cmd"].split()
    draw = random.Random(name)
    first, *others = (draw.random() * (seconds[name.partition("@")[0]] + 1.5) for _ in range(3))  # 1.5: the imports
    killed(victim, alone, first, whole=True)
    for moment in others:
        killed(victim, command, moment, whole=False)
    victim.run("mistakes", "repair")  # DVC truncates dvc.lock before it writes it, and the kill may have met that
    victim.run(*alone)
    assert outputs(victim, name) == undisturbed
    assert victim.run("git", "status", "--porcelain").stdout == ""
    assert not list((victim.folder / "data").rglob(".*.partial"))


@pytest.mark.parametrize("left", [0, 1, 100, 1000, 5000])
def test_a_lock_that_was_cut_short_is_put_back(reproduced: Checkout, tmp_path: Path, left: int) -> None:
    checkout = duplicate(reproduced, tmp_path / "checkout", "mlflow.db", "mlartifacts")
    lock = checkout.folder / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[:left])
    assert "dvc.lock: it was cut short" in checkout.run("mistakes", "repair").stderr
    assert lock.read_bytes() == whole
    assert checkout.run("mistakes", "repair").stderr == ""
    assert "Running stage" not in checkout.run("dvc", "repro").stdout


def told(checkout: Checkout) -> list:
    return checkout.runs(level="stage") if (checkout.folder / "mlflow.db").exists() else []


def test_killed_executions_appear_once_and_as_killed(victim: Checkout) -> None:
    journals = [file.read_text() for file in (victim.folder / ".dvc/tmp/mistakes/journal").glob("*.jsonl")]
    cut = [text for text in journals if '"event": "end"' not in text]
    before = told(victim)
    for _ in range(2):
        victim.run("mistakes", "publish")
        statuses = [run.info.status for run in told(victim)]
        assert len(statuses) == len(before) + len(journals)
        assert statuses.count("KILLED") == [run.info.status for run in before].count("KILLED") + len(cut)
        assert set(statuses) <= {"FINISHED", "KILLED"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Write a file that leaves ``left`` bytes on the disk."""
    ballast = folder / "ballast"
    size = shutil.disk_usage(folder).free - left
    with ballast.open("wb") as file:
        for _ in range(size >> 16):
            file.write(bytes(1 << 16))
    return ballast


@pytest.mark.parametrize(
    ("name", "left"), [("scores@smoke", 50_000), ("images", 100_000), ("classifier@smoke", 200_000)]
)
def test_a_full_disk_is_told_and_costs_a_retry(reproduced: Checkout, small_disk: Path, name: str, left: int) -> None:
    checkout = duplicate(reproduced, small_disk / "checkout", "mlflow.db", "mlartifacts", ".dvc/cache/runs")
    undisturbed = outputs(checkout, name)
    for path in undisturbed:
        (checkout.folder / path).unlink()
    ballast = fill(small_disk, left)
    alone = ["dvc", "repro", "--single-item", "--force", name]  # or DVC takes the result from its cache
    done = checkout.run(*alone, check=False, TRACKING_STRICT="0")  # its database is on the same disk
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((checkout.folder / "data").rglob(".*.partial"))
    ballast.unlink()
    checkout.run(*alone)
    assert outputs(checkout, name) == undisturbed
    assert checkout.run("git", "status", "--porcelain").stdout == ""


def test_a_remote_on_a_full_disk_costs_a_retry(reproduced: Checkout, small_disk: Path, tmp_path: Path) -> None:
    checkout = duplicate(reproduced, tmp_path / "checkout", "mlflow.db", "mlartifacts")
    checkout.run("dvc", "remote", "add", "--default", "store", str(small_disk / "store"))
    ballast = fill(small_disk, 2_000_000)
    done = checkout.run("dvc", "push", check=False)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    ballast.unlink()
    checkout.run("dvc", "push")
    assert "in sync" in checkout.run("dvc", "status", "--cloud").stdout
    other = Checkout(tmp_path / "other")
    checkout.run("git", "clone", "--quiet", str(checkout.folder), str(other.folder))
    other.run("dvc", "remote", "add", "--default", "store", str(small_disk / "store"))
    other.run("dvc", "pull")
    assert "up to date" in other.run("dvc", "status").stdout
