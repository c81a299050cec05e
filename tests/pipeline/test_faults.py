"""Kills at every kind of moment and a full disk: `dvc repro` ends with the bytes of an undisturbed
run.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout, duplicate
from commands import ROOT

DEFINED = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = [
    f"{name}@smoke" if "foreach" in stage else name
    for name, stage in DEFINED.items()
    if name != "track"
]
FIRST_FILE = r"\.partial/"  # before it is opened
MOVE = r"^os.rename \S+\.partial/\S+ (?!\S+\.partial/)"  # of what is whole to its place
EPOCH = r"^os.rename \S+/scratch/"  # the checkpoint of an epoch is whole
LOCK = r"^open \S+/dvc.lock w"  # DVC truncates it, and writes it then

pytestmark = pytest.mark.slow


@pytest.fixture
def victim(reproduced: Checkout, tmp_path: Path) -> Checkout:
    return duplicate(reproduced, tmp_path / "victim", "mlflow.db", "mlartifacts")


def outputs(checkout: Checkout, name: str) -> dict[str, bytes]:
    lock = yaml.safe_load((checkout.folder / "dvc.lock").read_text())["stages"][name]
    paths = [checkout.folder / out["path"] for out in lock["outs"]]
    files = (
        file
        for path in paths
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    )
    return {file.relative_to(checkout.folder).as_posix(): file.read_bytes() for file in files}


def alone(name: str) -> list[str]:
    return [
        "dvc",
        "repro",
        "--single-item",
        "--force",
        name,
    ]  # or DVC takes the result from its cache


def kill(checkout: Checkout, command: list[str], who: str, at: str, **more: str) -> None:
    """Run ``command``, in which the process ``who`` is killed by SIGKILL at an event
    (killer/sitecustomize.py).
    """
    env = checkout.env | {
        "PYTHONPATH": str(ROOT / "tests/killer"),
        "DVC_ROOT": str(checkout.folder),
    }
    env |= {"KILL_WHO": who, "KILL_AT": at} | more
    done = subprocess.run(
        command,
        cwd=checkout.folder,
        env=env,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, (
        f"{command} was not killed\n{done.stdout}\n{done.stderr}"
    )


def undisturbed_after(checkout: Checkout, name: str, before: dict[str, bytes]) -> None:
    checkout.run(*alone(name))
    assert outputs(checkout, name) == before
    assert checkout.run("git", "status", "--porcelain").stdout == ""
    assert not list((checkout.folder / "data").rglob(".*.partial"))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_killed_at_its_first_file_and_while_its_files_move_ends_with_the_same_bytes(
    victim: Checkout, name: str
) -> None:
    before = outputs(victim, name)
    assert before
    stage = f"-m stages.{name.partition('@')[0]} "
    kill(victim, alone(name), stage, FIRST_FILE, KILL_GROUP="")  # DVC dies with it
    command = yaml.safe_load((victim.folder / "dvc.lock").read_text())["stages"][name][
        "cmd"
    ].split()
    parts = {path.removeprefix(f"{command[-1]}/").partition("/")[0] for path in before}
    kill(victim, command, stage, MOVE, KILL_COUNT=str(min(2, len(parts))))
    undisturbed_after(victim, name, before)


def test_a_training_killed_after_its_third_epoch_goes_on_to_the_same_bytes(
    victim: Checkout,
) -> None:
    name = "classifier@smoke"
    before = outputs(victim, name)
    kill(victim, alone(name), "-m stages.classifier ", EPOCH, KILL_COUNT="3", KILL_GROUP="")
    done = victim.run(*alone(name))
    assert "classifier: 2 " not in done.stdout
    assert "classifier: 6 " in done.stdout
    assert outputs(victim, name) == before


def test_killed_executions_appear_once_and_as_killed(victim: Checkout) -> None:
    for name in ("images", "flow@smoke"):
        kill(victim, alone(name), f"-m stages.{name.partition('@')[0]} ", FIRST_FILE, KILL_GROUP="")
    victim.run(*alone("images"))
    for _ in range(2):
        victim.run("mistakes", "publish")
        told = [(run.data.tags["stage"], run.info.status) for run in victim.runs(level="stage")]
        assert sorted(told) == [("flow", "KILLED"), ("images", "FINISHED"), ("images", "KILLED")]


@pytest.mark.parametrize("left", [0, 1, 100, 1000, 5000])
def test_a_lock_that_was_cut_short_is_put_back(victim: Checkout, left: int) -> None:
    lock = victim.folder / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[:left])
    assert "dvc.lock: it was cut short" in victim.run("mistakes", "repair").stderr
    assert lock.read_bytes() == whole
    assert victim.run("mistakes", "repair").stderr == ""
    assert "Running stage" not in victim.run("dvc", "repro").stdout


@pytest.mark.parametrize("calls", [1, 20_000, 60_000])
def test_dvc_killed_while_it_writes_its_lock_costs_a_repair(victim: Checkout, calls: int) -> None:
    lock, name = victim.folder / "dvc.lock", "images"
    whole, before = lock.read_bytes(), outputs(victim, name)
    kill(victim, alone(name), "/dvc repro", LOCK, KILL_LATER=str(calls))
    assert lock.read_bytes() != whole
    assert whole.startswith(lock.read_bytes())
    victim.run("mistakes", "repair")
    done = victim.run("dvc", "repro")
    assert "Running stage" not in done.stdout
    assert lock.read_bytes() == whole
    undisturbed_after(victim, name, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
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
def test_a_full_disk_is_told_and_costs_a_retry(
    reproduced: Checkout, small_disk: Path, name: str, left: int
) -> None:
    checkout = duplicate(
        reproduced, small_disk / "checkout", "mlflow.db", "mlartifacts", ".dvc/cache/runs"
    )
    undisturbed = outputs(checkout, name)
    for path in undisturbed:
        (checkout.folder / path).unlink()
    ballast = fill(small_disk, left)
    done = checkout.run(
        *alone(name), check=False, TRACKING_STRICT="0"
    )  # its database is on the same disk
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    ballast.unlink()
    undisturbed_after(checkout, name, undisturbed)


def test_a_remote_on_a_full_disk_costs_a_retry(
    reproduced: Checkout, small_disk: Path, tmp_path: Path
) -> None:
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
