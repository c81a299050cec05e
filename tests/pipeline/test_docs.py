"""The commands of the guides, taken out of them and run against real servers; the steps of the
workflow for GitHub.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import servers
import yaml
from checkouts import Checkout, duplicate
from commands import ROOT
from PIL import Image

WORKFLOW = ROOT / ".github/workflows/pipeline.yml"


def blocks(guide: str) -> list[tuple[str, str]]:
    """Return word and commands of each block that begins with ```sh; a block without a language is
    not run.
    """
    return re.findall(
        r"^```sh ?(\w*)\n(.*?)^```$", (ROOT / "docs" / guide).read_text(), re.MULTILINE | re.DOTALL
    )


def follow(
    checkout: Checkout, guide: str, *words: str, swap: dict[str, str] | None = None, **env: str
) -> str:
    """Run the blocks of a guide as one script: all, or those with these words. ``swap``: addresses
    of this test.
    """
    script = "".join(text for word, text in blocks(guide) if not words or word in words)
    assert script
    for there, here in (swap or {}).items():
        assert there in script, there
        script = script.replace(there, here)
    return checkout.run("bash", "-euo", "pipefail", "-c", script, **env).stdout


@pytest.fixture
def checkout(reproduced: Checkout, tmp_path: Path) -> Checkout:
    """A copy that is its own origin: a bare repository beside it."""
    copy = duplicate(reproduced, tmp_path / "checkout", "mlflow.db", "mlartifacts")
    copy.run("git", "clone", "--quiet", "--bare", str(copy.folder), str(tmp_path / "origin.git"))
    copy.run("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    return copy


def test_every_guide_has_commands_that_are_run_here() -> None:
    for guide in ("guard", "remotes", "server", "queue", "faults", "lineage", "ci"):
        assert blocks(f"{guide}.md")
        assert f"docs/{guide}.md" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_remotes_folder_and_queue(checkout: Checkout, tmp_path: Path) -> None:
    store = {"/srv/mistakes": str(tmp_path / "store")}
    follow(checkout, "remotes.md", "folder", swap=store)
    checkout.run("git", "push", "--quiet", "origin", "main")
    shown = follow(checkout, "remotes.md", "colleague", ORIGIN=str(tmp_path / "origin.git"))
    assert "Data and pipelines are up to date." in shown
    shown = follow(checkout, "queue.md")
    assert shown.count("Success") == 2
    assert "Data and pipelines are up to date." in shown
    assert "Running stage" not in shown.partition("Success")[2]


@pytest.mark.slow
def test_remotes_ssh(checkout: Checkout, tmp_path: Path) -> None:
    with servers.ssh(tmp_path / "ssh") as (port, key):
        user = subprocess.run(
            ["id", "-un"], capture_output=True, text=True, check=True
        ).stdout.strip()
        address = f"ssh://{user}@127.0.0.1:{port}{tmp_path}/store"
        swap = {
            "ssh://you@store.example.org:22/srv/mistakes": address,
            "~/.ssh/id_ed25519": str(key),
        }
        assert "pushed" in follow(checkout, "remotes.md", "ssh", swap=swap)


@pytest.fixture(scope="module")
def team() -> Iterator[servers.Team]:
    with servers.team_servers() as one, one.running():
        yield one


@pytest.mark.slow
def test_remotes_s3_on_the_team_s_server(checkout: Checkout, team: servers.Team) -> None:
    servers.need("dvc_s3")
    shown = follow(
        checkout, "remotes.md", "s3", swap={"http://127.0.0.1:8333": team.s3}, **team.bucket_keys
    )
    assert "pushed" in shown


@pytest.mark.slow
def test_server(checkout: Checkout, team: servers.Team) -> None:
    shutil.copy(team.folder / "env", checkout.folder / "server/.env")
    shown = follow(checkout, "server.md", swap={"http://127.0.0.1:5000": team.mlflow})
    assert "published HEAD" in shown
    assert checkout.run("git", "status", "--porcelain").stdout == ""  # passwords included
    text = (ROOT / "docs/server.md").read_text()
    assert "bash server/start.sh" in text
    assert "make server" in text


@pytest.mark.slow
def test_guard(reproduced: Checkout) -> None:
    (reproduced.folder / "own/new").mkdir(parents=True)  # not tracked by git
    for i, image in enumerate(np.load(reproduced.folder / "data/images/test/images.npy")[:5]):
        Image.fromarray(image[0]).save(reproduced.folder / f"own/new/{i}.png")
    shown = follow(reproduced, "guard.md", swap={"supervised": "smoke"})
    assert shown.startswith("file,prediction,confidence,p,flagged,reason\nown/new/0.png,")
    (reproduced.folder / "answer.csv").unlink()


@pytest.mark.slow
def test_faults(checkout: Checkout) -> None:
    assert follow(checkout, "faults.md").count("Data and pipelines are up to date.") == 2


@pytest.mark.slow
def test_lineage(reproduced: Checkout) -> None:
    shown = follow(reproduced, "lineage.md", swap={"supervised": "smoke"})
    assert shown.count("git checkout ") == 3
    assert "made by      report " in shown


@pytest.mark.slow
def test_workflow_and_ci(checkout: Checkout, tmp_path: Path) -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    steps = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    for path in ("params.yaml", "tests/smoke/params.yaml"):
        text = (checkout.folder / path).read_text()
        here = "detection:\n  seed: 0\n  alpha: 0.05"
        assert here in text
        (checkout.folder / path).write_text(text.replace(here, here.replace("0.05", "0.1")))
    checkout.run("dvc", "repro")
    checkout.run("git", "commit", "--quiet", "--all", "--message=change")
    base, head = checkout.run("git", "rev-parse", "HEAD~1", "HEAD").stdout.split()
    env = {
        "BASE": base,
        "HEAD": head,
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    assert "pip install" in steps.pop("Install")  # these two need a network and GitHub
    assert "gh pr comment" in steps.pop("Comment")
    for run in steps.values():
        checkout.run("bash", "-eo", "pipefail", "-c", run, **env)  # as GitHub does
    summary = (tmp_path / "summary.md").read_text()
    committed, smoke = summary.removeprefix("### Committed metrics").split(
        "### Metrics of the smoke variant"
    )
    for table in (committed, smoke):
        assert re.search(r"^\| Path \| Metric \|", table, re.MULTILINE)
        assert re.search(
            r"^\| data/detection/smoke/summary.json \| false_alarms \|", table, re.MULTILINE
        )
        assert "data/flow" not in table
    checkout.run("git", "switch", "--quiet", "--discard-changes", "main")
    assert "false_alarms" in follow(checkout, "ci.md")


@pytest.mark.slow
def test_architecture_says_how_a_detector_an_attack_and_a_stage_are_added(
    checkout: Checkout,
) -> None:
    """Each block goes to the file that it names: as a new file, or above or below the line that it
    names.
    """
    text = (ROOT / "docs/architecture.md").read_text()
    for name, block in re.findall(
        r"^```(?:python|yaml) (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        path, (first, _, rest) = checkout.folder / name, block.partition("\n")
        if not path.exists():
            path.write_text(block)
            continue
        where, _, line = first.removeprefix("# ").partition(": ")
        lines = path.read_text().splitlines(keepends=True)
        (at,) = [number for number, found in enumerate(lines) if found.startswith(line)]
        lines.insert(at + (where == "below"), rest)
        path.write_text("".join(lines))
    checkout.run("python", "-m", "mistakes.pipeline.deps")
    assert (
        "mistakes/data"
        in yaml.safe_load((checkout.folder / "dvc.yaml").read_text())["stages"]["norms"]["do"][
            "deps"
        ]
    )
    checkout.run("dvc", "repro")
    norms = json.loads((checkout.folder / "data/norms/smoke/metrics.json").read_text())
    sets, macro = (
        pd.read_csv(checkout.folder / f"data/detection/smoke/{table}.csv")
        for table in ("detection", "macro")
    )
    assert 0 < macro.set_index("score").loc["feature_norm", "macro_auroc"] < 1
    assert "mim_05" in set(sets["set"])
    assert norms["mean"] > 0
    assert "feature norm" in (checkout.folder / "data/report/report.html").read_text()
