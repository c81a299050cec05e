"""The folder that a user deploys says of new inputs what the pipeline says of them, by itself and through MLflow."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Checkout
from PIL import Image

from mistakes import deployment
from mistakes.artifacts import load_table
from mistakes.errors import InputError

MODEL = Path("data/guard/smoke/model")


@pytest.fixture
def folder(reproduced: Checkout, tmp_path: Path) -> Path:
    """A copy of the folder elsewhere: it needs nothing beside it."""
    return Path(shutil.copytree(reproduced.folder / MODEL, tmp_path / "copy"))


@pytest.fixture
def test_images(reproduced: Checkout) -> np.ndarray:
    return np.load(reproduced.folder / "data/images/test/images.npy")


def test_it_says_what_the_pipeline_says(reproduced: Checkout, folder: Path, test_images: np.ndarray) -> None:
    scores = load_table(reproduced.folder / "data/scores/smoke/scores.parquet")
    guard = deployment.load(folder)
    for source, images in (
        ("id", test_images),
        ("ood", np.load(reproduced.folder / "data/ood/sets/glyphs/images.npy")),
    ):
        known = scores[(scores["source"] == source) & scores["set"].isin(["test", "glyphs"])]
        answer = guard.predict(images)
        assert len(known) == len(answer) > 0
        np.testing.assert_allclose(answer["p"], known["p_guard"])
        assert list(answer["prediction"]) == [guard.form.classes[i] for i in known["prediction"]]
        np.testing.assert_allclose(answer["confidence"], -known["msp"], rtol=1e-6)
        assert (answer["flagged"] == (answer["p"] <= 0.05)).all()
        assert set(answer["reason"]) <= {"confidence", "probe", "evidence", "early_density", "density"}
    assert answer["flagged"].mean() > 0.5  # glyphs
    strict = guard.predict(images, {"alpha": 0.02})
    assert strict["flagged"].sum() < answer["flagged"].sum()
    assert strict["p"].equals(answer["p"])


def test_an_input_s_answer_does_not_depend_on_the_others(folder: Path, test_images: np.ndarray) -> None:
    guard = deployment.load(folder)
    together, alone = guard.predict(test_images[:5]), guard.predict(test_images[3:4])
    assert alone["prediction"].tolist() == together["prediction"].tolist()[3:4]
    assert alone["p"].to_numpy() == pytest.approx(together["p"].to_numpy()[3:4], abs=0.02)


def test_mlflow_loads_it(reproduced: Checkout, folder: Path, test_images: np.ndarray) -> None:
    """In a process of its own: MLflow's own models warn when they are imported."""
    code = """
import sys, mlflow, numpy as np
guard = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load("data/images/test/images.npy")[:20].astype(float)  # numbers as JSON gives them
guard.predict(images).to_csv(sys.argv[1] + "/answer.csv", index=False)
guard.predict(images, params={"alpha": 0.5}).to_csv(sys.argv[1] + "/lenient.csv", index=False)
"""
    reproduced.run("python", "-c", code, str(folder))
    guard = deployment.load(folder)
    for name, params in (("answer", {}), ("lenient", {"alpha": 0.5})):
        answer, known = pd.read_csv(folder / f"{name}.csv"), guard.predict(test_images[:20], params)
        assert answer["p"].to_numpy() == pytest.approx(known["p"].to_numpy())
        assert answer["flagged"].tolist() == known["flagged"].tolist()
        assert answer["reason"].tolist() == known["reason"].tolist()


def test_bad_inputs(folder: Path, test_images: np.ndarray) -> None:
    guard = deployment.load(folder)
    for images, words in (
        (test_images[:, 0], "shape of the images"),
        (test_images[:0], "shape of the images"),
        (np.repeat(test_images, 3, axis=1), "shape of the images"),
        (test_images / 255, "whole numbers from 0 to 255"),
        (test_images.astype(int) + 1000, "whole numbers from 0 to 255"),
    ):
        with pytest.raises(InputError, match=words):
            guard.predict(images)
    with pytest.raises(InputError, match="alpha is 2"):
        guard.predict(test_images, {"alpha": 2})
    with pytest.raises(InputError, match="calibration images"):
        guard.predict(test_images, {"alpha": 1e-6})


@pytest.mark.parametrize(
    "name", ["form.json", "model.safetensors", "flow.safetensors", "guard.safetensors", "calibration.npy"]
)
def test_damage_is_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(InputError, match=name):
        deployment.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: file is 'missing'"):
        deployment.load(folder)


def test_the_command(reproduced: Checkout, test_images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for i, name in enumerate(("a.png", "below/b.PNG")):
        Image.fromarray(test_images[i, 0]).save(tmp_path / name)
    Image.fromarray(test_images[2, 0]).resize((40, 30)).convert("RGB").save(tmp_path / "c.bmp")  # scaled, cropped, grey
    (tmp_path / "notes.txt").write_text("no image")
    done = reproduced.run("mistakes", "check", str(MODEL), str(tmp_path), str(tmp_path / "a.png"))
    (tmp_path / "answer.csv").write_text(done.stdout)
    answer = pd.read_csv(tmp_path / "answer.csv")
    assert [Path(file).name for file in answer["file"]] == ["a.png", "b.PNG", "c.bmp", "a.png"]
    known = deployment.load(reproduced.folder / MODEL).predict(test_images[:2])
    assert answer["prediction"].astype(str).tolist()[:2] == known["prediction"].tolist()
    assert answer["p"].to_numpy()[:2] == pytest.approx(known["p"].to_numpy(), abs=0.02)
    assert f"flagged {answer['flagged'].sum()} of 4" in done.stderr

    (tmp_path / "d.png").write_bytes(b"no image")
    for arguments, words in (
        ([str(MODEL), str(tmp_path)], "d.png: file is no image"),
        ([str(MODEL), "nowhere.png"], "nowhere.png: file is"),
        (["nowhere", str(tmp_path / "a.png")], "nowhere/form.json: file is 'missing'"),
        ([str(MODEL), str(tmp_path / "a.png"), "--alpha", "0"], "alpha is 0.0"),
    ):
        done = reproduced.run("mistakes", "check", *arguments, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
