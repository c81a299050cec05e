"""docs/features.md followed: from files to report and row, and again when the files change."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from checkouts import Checkout, clone
from commands import ROOT, refused

from mistakes import artifacts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A perceptron on 64 numbers, by the commands of the guide, with the committed parameters."""
    checkout = clone(tmp_path_factory.mktemp("guide"))
    shutil.copy(ROOT / "params.yaml", checkout.folder / "params.yaml")
    checkout.run("git", "commit", "--quiet", "--all", "--message=default")
    text = (ROOT / "docs" / "features.md").read_text()
    checkout.run("python", "-c", re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    checkout.run("mistakes", "use", "experiments/own_features.yaml")
    (checkout.folder / "printed.txt").write_text(checkout.run("dvc", "repro").stdout)
    return checkout


def test_what_needs_images_is_left_out_and_the_rest_is_shown(guide: Checkout) -> None:
    printed, data = (guide.folder / "printed.txt").read_text(), guide.folder / "data"
    for stage in ("classifier", "adversarial", "adaptive", "corruptions"):
        nothing = f"\n{stage}: nothing to do: outputs are given as files: there is no image"
        assert nothing in printed
    tested = json.loads((data / "hypotheses/given/hypotheses.json").read_text())
    assert {row["hypothesis"] for row in tested} == {"H1", "H3", "H4", "H4_bins", "H5"}
    macro = pd.read_csv(data / "detection/given/macro.csv").set_index("score")
    assert set(macro.columns) >= {"auroc_mistakes", "auroc_ood"}
    assert macro.loc["guard", "auroc_mistakes"] > 0.7
    assert macro.loc["nll", "auroc_ood"] > 0.8
    page = (data / "report/report.html").read_text()
    for shown in (
        "Over the two causes of failure",
        "The guard's shares of α",
        "density 2 ",
        "<strong>row ",
        "no adversarial",
    ):
        assert shown in page
    assert "Attacks, and attackers" not in page
    assert "<img" not in page
    assert artifacts.load_csv(data / "adaptive/given/adaptive.csv").empty


def test_the_row_has_what_the_files_have(guide: Checkout) -> None:
    macro = pd.read_csv(guide.folder / "data/detection/given/macro.csv").set_index("score")
    (row,) = guide.runs(level="pipeline")
    assert row.info.status == "FINISHED"
    applicability = guide.folder / "data/detectors/given/applicability.json"
    shares = json.loads(applicability.read_text())["guard_shares"]
    assert shares.keys() == {"confidence", "density", "density_2"}
    assert sum(shares.values()) == pytest.approx(1)
    assert row.data.metrics["detection.auroc.guard.ood"] == pytest.approx(
        macro.loc["guard", "auroc_ood"], abs=1e-5
    )
    assert row.data.params["classifier.source"] == "features"
    assert "Data and pipelines are up to date." in guide.run("dvc", "repro").stdout
    assert "| guard |" in guide.run("mistakes", "results").stdout
    assert "| guard |" in guide.run("mistakes", "seeds", "given").stdout


def test_the_guard_answers_for_files_as_the_pipeline_does(guide: Checkout) -> None:
    check = ("mistakes", "check", "data/guard/given/model")
    lines = guide.run(*check, "own/noise.npz").stdout.splitlines()
    assert lines[0] == "file,prediction,confidence,p,flagged,reason"
    assert lines[400].startswith("own/noise.npz:399,")
    scores = artifacts.load_table(guide.folder / "data/scores/given/scores.parquet")
    noise = list(scores.query("set == 'noise'")["p_guard"])
    assert [float(line.split(",")[3]) for line in lines[1:]] == pytest.approx(noise, rel=1e-5)
    whole = np.load(guide.folder / "own/noise.npz")
    narrow = {"features": whole["features"][:, 1:], "logits": whole["logits"]}
    np.savez(guide.folder / "own/narrow.npz", **narrow)
    refused(guide.run(*check, "own/narrow.npz", check=False), "features is")


def test_changed_labels_make_a_row_of_their_own(guide: Checkout) -> None:
    """A fifth of the labels wrong in the same file: DVC, results, guard by its path, and rows."""
    (first,) = guide.runs(level="pipeline")
    path = guide.folder / "own/train.npz"
    arrays = dict(np.load(path))
    wrong = np.arange(len(arrays["labels"])) % 5 == 0
    arrays["labels"] = np.where(wrong, (arrays["labels"] + 1) % 10, arrays["labels"])
    np.savez(path, **arrays)
    assert "up to date" in guide.run("dvc", "repro").stdout
    for ask in (("results",), ("check", "data/guard/given/model", "own/noise.npz")):
        said = guide.run("mistakes", *ask).stderr
        assert "own/train.npz, own/noise.npz: changed since stage raw read it" in said

    guide.run("mistakes", "repair")
    guide.run("dvc", "repro")
    assert guide.run("mistakes", "results").stderr == ""
    metrics = json.loads((guide.folder / "data/scores/given/metrics.json").read_text())
    found = {row.info.run_id: row.data for row in guide.runs(level="pipeline")}
    assert found.pop(first.info.run_id).metrics == first.data.metrics
    (second,) = found.values()
    accuracy = second.metrics["scores.accuracy_test"]
    assert accuracy == metrics["accuracy_test"]
    assert accuracy < first.data.metrics["scores.accuracy_test"] - 0.1
    guards = [row.metrics["detection.macro.guard"] for row in (first.data, second)]
    assert guards[0] != guards[1]
