"""The folder that a user deploys says of new inputs what the pipeline says of them, by itself and
through MLflow.
"""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkouts import Checkout
from PIL import Image

from mistakes.artifacts import load_table, save_tensors
from mistakes.detectors import conformal
from mistakes.errors import InputError
from mistakes.serving import guard_model, predict_files

MODEL = Path("data/guard/smoke/model")


@pytest.fixture
def folder(reproduced: Checkout, tmp_path: Path) -> Path:
    """A copy of the folder elsewhere: it needs nothing beside it."""
    return Path(shutil.copytree(reproduced.folder / MODEL, tmp_path / "copy"))


@pytest.fixture
def test_images(reproduced: Checkout) -> np.ndarray:
    return np.load(reproduced.folder / "data/images/test/images.npy")


def test_it_says_what_the_pipeline_says(
    reproduced: Checkout, folder: Path, test_images: np.ndarray
) -> None:
    scores = load_table(reproduced.folder / "data/scores/smoke/scores.parquet")
    guard = guard_model.load(folder)
    for source, images in (
        ("id", test_images),
        ("ood", np.load(reproduced.folder / "data/ood/sets/glyphs/images.npy")),
    ):
        known = scores[(scores["origin"] == source) & scores["set"].isin(["test", "glyphs"])]
        answer = guard.predict(images)
        assert len(known) == len(answer) > 0
        np.testing.assert_allclose(answer["p"], known["p_guard"])
        assert list(answer["prediction"]) == [guard.form.classes[i] for i in known["prediction"]]
        np.testing.assert_allclose(answer["confidence"], -known["msp"], rtol=1e-6)
        assert (answer["flagged"] == (answer["p"] <= 0.05)).all()
        assert set(answer["reason"]) <= {
            "confidence",
            "probe",
            "evidence",
            "early_density",
            "density",
            "density_2",
        }
    assert answer["flagged"].mean() > 0.5  # glyphs
    answer, lenient = guard.predict(test_images), guard.predict(test_images, {"alpha": 0.5})
    assert (lenient["flagged"] == (lenient["p"] <= 0.5)).all()
    assert lenient["flagged"].sum() > answer["flagged"].sum()
    assert lenient["p"].equals(answer["p"])


def test_an_input_s_answer_does_not_depend_on_the_others(
    folder: Path, test_images: np.ndarray
) -> None:
    guard = guard_model.load(folder)
    together, alone = guard.predict(test_images[:5]), guard.predict(test_images[3:4])
    assert alone["prediction"].tolist() == together["prediction"].tolist()[3:4]
    assert alone["p"].to_numpy() == pytest.approx(together["p"].to_numpy()[3:4], abs=0.02)


@pytest.mark.slow
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
    guard = guard_model.load(folder)
    for name, params in (("answer", {}), ("lenient", {"alpha": 0.5})):
        answer, known = pd.read_csv(folder / f"{name}.csv"), guard.predict(test_images[:20], params)
        assert answer["p"].to_numpy() == pytest.approx(known["p"].to_numpy())
        assert answer["flagged"].tolist() == known["flagged"].tolist()
        assert answer["reason"].tolist() == known["reason"].tolist()


def test_bad_inputs(folder: Path, test_images: np.ndarray) -> None:
    guard = guard_model.load(folder)
    for images, words in (
        (test_images[:, 0], "shape of the images"),
        (test_images[:0], "shape of the images"),
        (np.repeat(test_images, 3, axis=1), "shape of the images"),
        (test_images / 255, "whole numbers from 0 to 255"),
        ((test_images > 99).astype(int), "whole numbers from 0 to 255"),
        (test_images.astype(int) + 1000, "whole numbers from 0 to 255"),
        (test_images > 99, "images is 'bool'"),
        (test_images * np.nan, "images is 'NaN'"),
        ([[1, 2], [3]], "images is 'ragged'"),
        (None, "images is 'object'"),
    ):
        with pytest.raises(InputError, match=words):
            guard.predict(images)
    for parameters, words in (
        ({"alpha": 2}, "guard: alpha is 2"),
        ({"alpha": None}, "guard: alpha is 'object'"),
        ({"alpha": "x"}, "guard: alpha is"),
        ({"aplha": 0.1}, "parameter is 'aplha'"),
        ({"alpha": 1e-6}, "guard: alpha is 1e-06, expected at least 1/.* calibration images"),
    ):
        with pytest.raises(InputError, match=words):
            guard.predict(test_images, parameters)


def test_a_program_is_run_only_for_who_trusts_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    description = {
        "source": "entrypoint",
        "entrypoint": "os:mkdir",
        "arguments": {"path": str(made)},
    }
    save_tensors(folder / "model.safetensors", {}, description)
    with pytest.raises(InputError, match="program is 'os:mkdir', expected one that you trust"):
        guard_model.load(folder)
    assert not made.exists()
    with pytest.raises(InputError, match="os:mkdir"):  # which is no network
        guard_model.load(folder, trust=True)
    assert made.exists()
    made.rmdir()
    with pytest.raises(InputError, match="program is"):
        guard_model._load_pyfunc(str(folder))
    monkeypatch.setenv("MISTAKES_TRUST", "1")
    with pytest.raises(InputError, match="os:mkdir"):
        guard_model._load_pyfunc(str(folder))
    assert made.exists()


@pytest.mark.parametrize(
    "name",
    ["form.json", "model.safetensors", "flow.safetensors", "guard.safetensors", "calibration.npy"],
)
def test_damage_is_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(InputError, match=name):
        guard_model.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: file is 'missing'"):
        guard_model.load(folder)


@pytest.mark.slow
def test_the_command(reproduced: Checkout, test_images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for i, name in enumerate(("a.png", "below/b.PNG")):
        Image.fromarray(test_images[i, 0]).save(tmp_path / name)
    Image.fromarray(test_images[2, 0]).convert("RGB").save(tmp_path / "c.bmp")  # becomes grey
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.png").write_text("what a file manager leaves")
    done = reproduced.run("mistakes", "check", str(MODEL), str(tmp_path), str(tmp_path / "a.png"))
    (tmp_path / "answer.csv").write_text(done.stdout)
    answer = pd.read_csv(tmp_path / "answer.csv")
    assert [Path(file).name for file in answer["file"]] == ["a.png", "b.PNG", "c.bmp", "a.png"]
    known = guard_model.load(reproduced.folder / MODEL).predict(test_images[:2])
    assert answer["prediction"].astype(str).tolist()[:2] == known["prediction"].tolist()
    assert answer["p"].to_numpy()[:2] == pytest.approx(known["p"].to_numpy(), abs=0.02)
    assert done.stderr.splitlines() == [
        f"flagged {answer['flagged'].sum()} of 4; left out 1",
        f"left out: {tmp_path / 'notes.txt'}",
    ]

    guard = guard_model.load(reproduced.folder / MODEL)
    together, _ = predict_files.check(guard, [tmp_path], None, skip=False, fdr=0.99)
    assert together["flagged"].tolist() == (
        conformal.discoveries(together["p"].to_numpy(), 0.99).tolist()
    )

    (tmp_path / "d.png").write_bytes(b"no image")
    Image.new("L", (40, 30)).save(tmp_path / "e.jpg")
    done = reproduced.run("mistakes", "check", str(MODEL), str(tmp_path), "--skip-corrupt")
    assert done.stdout == "".join(
        (tmp_path / "answer.csv").read_text().splitlines(keepends=True)[:-1]
    )
    assert "left out 4" in done.stderr
    guard = guard_model.load(reproduced.folder / MODEL)
    scaling = dataclasses.replace(
        guard, form=dataclasses.replace(guard.form, size=guard.form.shape[1])
    )
    assert len(predict_files.check(scaling, [tmp_path / "e.jpg"], None, skip=False)[0]) == 1
    for arguments, words in (
        ([str(MODEL), str(tmp_path)], "d.png: cannot be read (not an image)"),
        ([str(MODEL), "nowhere.png"], "nowhere.png: there is no such file or folder"),
        ([str(MODEL), str(tmp_path / "e.jpg")], "e.jpg: size is 40 x 30, expected"),
        (["nowhere", str(tmp_path / "a.png")], "nowhere/form.json: file is 'missing'"),
        ([str(MODEL), str(tmp_path / "a.png"), "--alpha", "0"], "alpha is 0.0"),
        ([str(MODEL), str(tmp_path / "a.png"), "--fdr", "1"], "fdr is 1.0"),
        ([str(MODEL), str(tmp_path / "a.png"), "--error", "1"], "error is 1.0"),
        ([str(MODEL), str(tmp_path / "a.png"), "--error", "1e-4"], "can be promised that"),
        ([str(MODEL), str(tmp_path / "a.png"), "--error", "0.1", "--fdr", "0.1"], "one of them"),
    ):
        done = reproduced.run("mistakes", "check", *arguments, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
