"""What stages refuse, and what they leave behind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import SMOKE, refused, run

from mistakes import artifacts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMOKE)
    return tmp_path


def test_missing_parameter_file_and_wrong_arguments(tmp_path: Path) -> None:
    refused(run(tmp_path, "raw", "data/raw"), "params.yaml: there is no such file")
    refused(run(tmp_path, "raw"), "command line", "python -m stages.raw OUT")


def test_a_store_that_cannot_be_written(folder: Path) -> None:
    (folder / "data").write_text("a file where a folder should be")
    refused(run(folder, "raw", "data/raw"), "data")


def test_no_label_reaches_the_flow(folder: Path, rng: np.random.Generator) -> None:
    """It is conditioned on what the classifier predicts: other labels give the same bytes."""
    parts = {split: rng.normal(size=(300, 12)).astype(np.float32) for split in ("fit", "val")}
    made = []
    for labels in (np.arange(300) % 10, rng.permutation(300) % 10):
        for split, z in parts.items():
            arrays = {"features": z, "logits": z[:, :10].copy(), "labels": labels}
            artifacts.save_arrays(folder / split, **arrays)
        assert run(folder, "flow", "fit", "val", "data/flow/smoke").returncode == 0
        made.append((folder / "data/flow/smoke/flow.safetensors").read_bytes())
        shutil.rmtree(folder / "data")
    assert made[0] == made[1]


def test_a_diverging_flow_names_the_parameter(folder: Path, rng: np.random.Generator) -> None:
    for split in ("fit", "val"):
        z = rng.normal(size=(300, 12)).astype(np.float32)
        artifacts.save_arrays(folder / split, features=z, logits=z[:, :10])
    text = SMOKE.replace("learning_rate: 1.0e-3", "learning_rate: 1.0e+6").replace(
        "gradient_clip: 5.0", "gradient_clip: 1.0e+9"
    )
    (folder / "params.yaml").write_text(text)
    done = run(folder, "flow", "fit", "val", "data/flow/smoke")
    refused(done, "params.yaml", "flow.learning_rate", "1000000.0", "diverged")
    assert not (folder / "data/flow/smoke").exists()
