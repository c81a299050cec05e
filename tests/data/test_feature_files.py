"""Custom features: every kind of file, what is refused, the guard without early features, and the
whole pipeline.
"""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import SMOKE, refused, run
from safetensors.numpy import save_file

from mistakes.config import params
from mistakes.data import feature_files
from mistakes.data.features import Batch, Outputs
from mistakes.detectors import guard
from mistakes.errors import InputError


def arrays(rng: np.random.Generator, n: int = 20, early: bool = True) -> dict[str, np.ndarray]:
    found = {
        "features": rng.normal(size=(n, 5)),
        "logits": rng.normal(size=(n, 3)),
        "labels": rng.integers(0, 3, n),
    }
    return found | (
        {"early_1": rng.normal(size=(n, 4)), "early_2": rng.normal(size=(n, 2))} if early else {}
    )


def as_npz(path: Path, values: dict[str, np.ndarray]) -> Path:
    np.savez(path.with_suffix(".npz"), **values)
    return path.with_suffix(".npz")


def as_folder(path: Path, values: dict[str, np.ndarray]) -> Path:
    path.mkdir()
    for key, value in values.items():
        np.save(path / f"{key}.npy", value)
    return path


def as_safetensors(path: Path, values: dict[str, np.ndarray]) -> Path:
    save_file(values, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_lists(path: Path, values: dict[str, np.ndarray]) -> Path:
    pd.DataFrame({key: list(value) for key, value in values.items()}).to_parquet(
        path.with_suffix(".parquet")
    )
    return path.with_suffix(".parquet")


def as_columns(path: Path, values: dict[str, np.ndarray]) -> Path:
    columns = {
        f"{key}_{i}": v[:, i]
        for key, v in values.items()
        if v.ndim == 2
        for i in reversed(range(v.shape[1]))
    }
    pd.DataFrame(columns | {"labels": values["labels"], "name": "text"}).to_parquet(
        path.with_suffix(".parquet")
    )
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [as_npz, as_folder, as_safetensors, as_lists, as_columns])
def test_every_kind_of_file_gives_the_same_arrays(
    write, tmp_path: Path, rng: np.random.Generator
) -> None:
    values = arrays(rng, 300)
    path = write(tmp_path / "train", values)
    parts, ood = feature_files.read({"train": path}, {"other": path}, None)
    assert list(parts["train"]) == ["features", "logits", "early_1", "early_2", "labels"]
    for key, array in parts["train"].items():
        assert array.dtype == (np.int64 if key == "labels" else np.float32)
        assert np.array_equal(array, values[key].astype(array.dtype))
    assert set(ood["other"]) == set(parts["train"]) - {"labels"}


def broken(key: str, row: int, value: float) -> dict[str, np.ndarray]:
    values = arrays(np.random.default_rng(0))
    values[key] = values[key].copy()
    values[key][row] = value
    return values


GOOD = arrays(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (broken("features", 7, np.nan), "bad.npz: features: row 7 is NaN or infinite"),
        (broken("logits", 3, np.inf), "bad.npz: logits: row 3 is NaN"),
        (
            broken("early_2", 4, 1e300),
            "bad.npz: early_2: row 4 is NaN or infinite",
        ),  # float32 cannot hold it
        (broken("labels", 5, 3), "bad.npz: label of row 5 is 3, expected 0 to 2"),
        (broken("labels", 6, -1), "bad.npz: label of row 6 is -1"),
        (GOOD | {"labels": GOOD["labels"][:-1]}, "rows of labels is 19, expected 20"),
        (GOOD | {"logits": GOOD["logits"][1:]}, "rows of logits is 19, expected 20"),
        (GOOD | {"labels": GOOD["labels"] / 1.0}, r"labels is float64 \(20,\), expected integers"),
        (
            GOOD | {"features": GOOD["features"][:, 0]},
            r"features is float64 \(20,\), expected numbers \(n, 1 or more\)",
        ),
        (
            GOOD | {"logits": GOOD["logits"][:, :1]},
            r"label of row 1 is 2, expected 0 to 1, .*one logit is for two",
        ),
        (
            GOOD | {"logits": GOOD["logits"][:, :0]},
            r"logits is float64 \(20, 0\), expected numbers \(n, k\), or",
        ),
        (GOOD | {"features": np.full((20, 5), "text")}, "features is <U4 .*expected numbers"),
        (GOOD | {"features": np.full((20, 5), None)}, "unreadable .pickled Python objects"),
        (
            {key: array for key, array in GOOD.items() if key != "logits"},
            "logits is 'missing', expected an array",
        ),
        (
            {key: array for key, array in GOOD.items() if key != "early_1"},
            "early features is .*without a gap",
        ),
        ({key: array[:0] for key, array in GOOD.items()}, "rows of features is 0"),
    ],
)
def test_bad_arrays_are_named(values: dict[str, np.ndarray], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **values)
    with pytest.raises(InputError, match=words) as caught:
        feature_files.read({"train": tmp_path / "bad.npz"}, {}, None)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(GOOD))
    (tmp_path / "disguised.npz").write_bytes(pickle.dumps(GOOD))
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "torn.safetensors").write_bytes(
        as_safetensors(tmp_path / "whole", GOOD).read_bytes()[:-9]
    )
    np.save(tmp_path / "one.npy", GOOD["features"])
    shutil.copy(tmp_path / "one.npy", tmp_path / "one.npz")
    for name, words in (
        ("model.pkl", "kind of file is '.pkl', expected a folder"),
        ("disguised.npz", "unreadable .pickled Python"),
        ("text.parquet", "unreadable"),
        ("torn.safetensors", "unreadable"),
        ("one.npy", "kind of file"),
        ("one.npz", "unreadable .one array"),
        ("nowhere.npz", "file is 'missing'"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            feature_files.read({"train": tmp_path / name}, {}, None)
        assert name in str(caught.value)


def test_parts_must_be_alike(tmp_path: Path, rng: np.random.Generator) -> None:
    train = as_npz(tmp_path / "train", GOOD)
    for change, words in (
        (
            {"features": rng.normal(size=(20, 6))},
            "other.npz: columns of features is 6, expected 5, as in the first part",
        ),
        ({"logits": rng.normal(size=(20, 4))}, "columns of logits is 4, expected 3"),
        ({"early_3": rng.normal(size=(20, 4))}, "columns of early_3 is 4, expected none"),
    ):
        other = as_npz(tmp_path / "other", GOOD | change)
        with pytest.raises(InputError, match=words):
            feature_files.read({"train": train, "test": other}, {}, None)
        with pytest.raises(InputError, match=words):
            feature_files.read({"train": train}, {"far": other}, None)
    with pytest.raises(
        InputError, match="logits columns is 3, expected 2, one for each of raw.classes"
    ):
        feature_files.read({"train": train}, {}, ["a", "b"])


def settings(folder: Path, **raw: object) -> None:
    values = yaml.safe_load(SMOKE)
    values["raw"] = {
        "dataset": "features",
        "parts": {"train": "train.npz"},
        "ood": {},
        "classes": None,
    } | raw
    values["classifiers"] = {"given": {"source": "features"}}
    values["images"] |= {"val": 30, "cal": 40, "test": 50}
    values["ood"]["sets"] = list(values["raw"]["ood"])
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def test_rows_are_split_by_seed_or_as_given(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = arrays(rng, 200)
    as_npz(tmp_path / "train", whole)
    as_npz(tmp_path / "far", arrays(rng, 9))
    settings(tmp_path, ood={"far": "far.npz"})
    assert run(tmp_path, "raw", "data/raw").returncode == 0
    assert run(tmp_path, "images", "data/raw", "data/images").returncode == 0
    seen = []
    for split, n in (("fit", 80), ("val", 30), ("cal", 40), ("test", 50)):
        indices = np.load(tmp_path / f"data/images/{split}/indices.npy")
        for key, array in whole.items():
            assert np.array_equal(
                np.load(tmp_path / f"data/images/{split}/{key}.npy"), array[indices].astype("f4")
            )
        assert len(indices) == n
        seen += list(indices)
    assert sorted(seen) == list(range(200))
    assert run(tmp_path, "ood", "data/images/test", "data/raw", "data/ood").returncode == 0
    assert np.load(tmp_path / "data/ood/sets/far/early_2.npy").shape == (9, 2)

    for split, n in (("fit", 60), ("val", 10), ("cal", 20), ("test", 15)):
        as_npz(tmp_path / split, arrays(rng, n))
    settings(
        tmp_path,
        parts={split: f"{split}.npz" for split in ("fit", "val", "cal", "test")},
        classes=list("abc"),
    )
    assert run(tmp_path, "raw", "data/raw4").returncode == 0
    assert run(tmp_path, "images", "data/raw4", "data/images4").returncode == 0
    metrics = json.loads((tmp_path / "data/images4/metrics.json").read_text())
    assert metrics == {
        "n.fit": 60,
        "n.val": 10,
        "n.cal": 20,
        "n.test": 15,
        "n.novel_classes": 0,
        "n.skipped": 0,
    }
    assert json.loads((tmp_path / "data/images4/classes.json").read_text()) == list("abc")
    assert np.load(tmp_path / "data/images4/cal/indices.npy").tolist() == list(range(70, 90))

    (tmp_path / "train.npz").write_bytes(b"x")
    settings(tmp_path)
    refused(run(tmp_path, "raw", "data/no"), "train.npz", "unreadable")
    assert not (tmp_path / "data/no").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"classifiers": yaml.safe_load(SMOKE)["classifiers"]},
            "classifiers.smoke is a network, expected {source:",
        ),
        (
            {"raw": {"dataset": "digits", "ood": []}},
            "classifiers.given.source is 'features', expected a network",
        ),
        (
            {"classifiers": {"given": {"source": "features", "width": 3}}},
            "unknown key classifiers.given.width",
        ),
        (
            {"images": {"seed": 0, "novel_classes": [1], "val": 1, "cal": 1, "test": 1}},
            "images.novel_classes is",
        ),
        (
            {
                "raw": {
                    "dataset": "features",
                    "parts": {"train": "x", "val": "y"},
                    "ood": {},
                    "classes": None,
                }
            },
            "raw.parts is .*train, or train and test, or fit, val, cal and test",
        ),
        (
            {"ood": {"seed": 0, "images": 5, "patch": 2, "sets": ["glyphs"]}},
            "ood.sets is 'glyphs', expected sets",
        ),
    ],
)
def test_parameters_of_own_features(change: dict[str, object], words: str, tmp_path: Path) -> None:
    settings(tmp_path)
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params.parse(yaml.safe_dump(values))
    with pytest.raises(InputError, match=words):
        params.parse(yaml.safe_dump(values | change))


def test_the_guard_without_early_features_has_two_parts_with_their_shares_scaled(
    tmp_path: Path, rng
) -> None:
    shares = dict(zip(guard.PARTS, (0.38, 0.38, 0.16, 0.04, 0.04), strict=True))
    logits, log_density = rng.normal(size=(500, 3)).astype(np.float32), rng.normal(size=(500, 1))
    batch = Batch(logits, logits)
    fitted = guard.fit(batch, batch, log_density, guard.Settings(0, 8, 1, 64, 0.01))
    fitted.weigh(shares)
    assert fitted.names == ("confidence", "density")
    assert fitted.shares.tolist() == pytest.approx([0.38 / 0.42, 0.04 / 0.42])
    guard.save(fitted, tmp_path / "guard.safetensors")
    found = guard.load(tmp_path / "guard.safetensors").score(batch, log_density)
    tensors = torch.as_tensor(logits)
    parts = fitted.parts(Outputs(tensors, tensors), torch.as_tensor(log_density))
    surprises = [
        tail(parts[name]) + np.log(share)
        for name, tail, share in zip(
            fitted.names, fitted.tails, (0.38 / 0.42, 0.04 / 0.42), strict=True
        )
    ]
    assert np.allclose(found, torch.stack(surprises).logsumexp(0).numpy())
