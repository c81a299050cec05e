"""Logits in files: one column, probabilities, log-probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_rows import read, rows, softmax

from mistakes.data import feature_files, logits
from mistakes.data.features import Batch
from mistakes.detectors import density, guard
from mistakes.errors import InputError
from mistakes.serving import guard_model
from mistakes.statistics import acceptance

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            softmax,
            (
                "a.npz: logits: all rows of logits are non-negative and sum to 1: these are"
                " probabilities; give log"
            ),
        ),
        (lambda s: softmax(s).astype(np.float16), "sum to 1: these are probabilities"),
        (lambda s: softmax(s).round(3), "these are probabilities"),
        (lambda s: 100 * softmax(s), "sum to 100: these are probabilities"),
        (lambda s: np.eye(4)[s.argmax(1)], "sum to 1: these are probabilities"),  # hard answers
        (lambda s: np.where(s > 3, np.inf, s), r"a.npz: logits: row \d+ is NaN or infinite"),
        (lambda s: np.where(s > 6, np.nan, s), r"a.npz: logits: row \d+ is NaN or infinite"),
        (lambda s: np.full_like(s, -np.inf), "a.npz: logits: row 0 is NaN or infinite"),
    ],
)
def test_files_of_probabilities_are_refused(change: Any, words: str, tmp_path: Path, rng) -> None:
    values = rows(rng)
    with pytest.raises(InputError, match=words):
        read(tmp_path, **values | {"logits": change(values["logits"])})


def test_log_probabilities_and_half_precision_in_files_are_welcome(tmp_path: Path, rng) -> None:
    values = rows(rng)
    with np.errstate(divide="ignore"):
        log = np.log(softmax(values["logits"]).round(3))
    assert np.isinf(log).any()
    found, said = read(tmp_path, **values | {"logits": log})
    rows_with = np.isinf(log).any(1).sum()
    assert (
        f"a.npz: logits: -inf in {rows_with} of 200 rows, the logarithm of a probability of 0, is"
        " taken as" in said[0]
    )
    assert np.isfinite(found["logits"]).all()
    assert softmax(found["logits"]) == pytest.approx(softmax(log), abs=1e-6)
    assert (
        found["logits"][np.isinf(log)] <= log.max(1)[np.isinf(log).nonzero()[0]] - 104 + 1e-3
    ).all()
    found, said = read(tmp_path, **values | {"logits": values["logits"].astype(np.float16)})
    assert found["logits"].dtype == np.float32
    assert not said
    found, said = read(tmp_path, **values | {"logits": 1 / (1 + np.exp(-values["logits"]))})
    assert "all logits lie in [0, 1]" in said[0]
    deep, _ = logits.checked(np.array([[0.0, -500.0, -np.inf], [-np.inf, 0.0, 1.0]]), "x")
    assert deep.tolist() == [[0, -500, -500], [-103, 0, 1]]  # below all others of its row


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
def test_files_of_one_logit_are_two_columns(shape: tuple[int, ...], tmp_path: Path, rng) -> None:
    values = rows(rng, k=2)
    one = values["logits"][:, 1] - values["logits"][:, 0]
    found, said = read(tmp_path, **values | {"logits": one.reshape(shape)})
    assert found["logits"].dtype == np.float32
    assert found["logits"] == pytest.approx(np.stack([np.zeros(200), one], axis=1), abs=1e-6)
    assert not said
    with pytest.raises(
        InputError,
        match=r"one logit lies in \[0, 1\] in all 200 rows, so it is a probability p; give log",
    ):
        read(tmp_path, **values | {"logits": 1 / (1 + np.exp(-one.reshape(shape)))})
    with pytest.raises(InputError, match="labels are -1 and 1, expected 0 and 1, the two classes"):
        read(
            tmp_path, **values | {"logits": one.reshape(shape), "labels": 2 * values["labels"] - 1}
        )


def test_tables_of_one_logit(tmp_path: Path, rng) -> None:
    import pandas as pd

    values = rows(rng, k=2)
    odds = values["logits"][:, 1] - values["logits"][:, 0]
    found, said = read(tmp_path, **values | {"logits": np.where(odds > 6, np.inf, odds)})
    assert found["logits"].max() == 104
    assert "-inf in" in said[0]
    for column in ("logits", "logits_0"):
        table = {
            column: values["logits"][:, 1] - values["logits"][:, 0],
            "labels": values["labels"],
        }
        pd.DataFrame(
            table | {f"features_{i}": values["features"][:, i] for i in range(5)}
        ).to_parquet(tmp_path / "t.parquet")
        found = feature_files.read({"train": tmp_path / "t.parquet"}, {}, None)[0]["train"]
        assert found["logits"].shape == (200, 2)


def test_a_guard_for_outputs_takes_one_logit_and_refuses_probabilities(rng) -> None:
    values = rows(rng, k=2, n=300)
    z, odds = values["features"].astype(np.float32), values["logits"][:, 1] - values["logits"][:, 0]
    both, _ = logits.checked(odds, "x")
    settings = density.Optimisation(2, 2, 64, 1e-3, 5.0, 0)
    nothing = lambda *_, **__: None  # noqa: E731
    flow = density.fit(z, z, "maf", "raw", 5, 1, 8, settings, CPU, nothing).density.requires_grad_(
        False
    )
    batch = Batch(z, both)
    densities = density.evaluate(flow.log_joints_at, z, batch.predicted)
    fitted = guard.fit(batch, batch, densities, guard.Settings(0, 8, 1, 64, 0.01))
    form = guard_model.Form(
        ["no", "yes"], None, None, "penultimate", None, 100, [], 0.1, 0.1, "correct"
    )
    scores = fitted.score(batch, densities)
    accepted = acceptance.curve(scores, scores, np.zeros(300, bool))
    deployed = guard_model.Deployed(form, None, flow, fitted, scores, accepted)
    expected = deployed.predict({"features": z, "logits": both})
    for one in (odds, odds[:, None]):
        assert deployed.predict({"features": z, "logits": one}).equals(expected)
    assert list(expected["prediction"]) == ["yes" if odd > 0 else "no" for odd in odds]
    sure = deployed.predict({"features": z[:1], "logits": [[-np.inf, 0.0]]})
    assert sure["confidence"][0] == 1
    with pytest.raises(
        InputError, match="guard: logits: all rows of logits are non-negative and sum to 1"
    ):
        deployed.predict({"features": z, "logits": softmax(both)})
    with pytest.raises(InputError, match=r"guard: logits is .*expected finite numbers \(n, 2\)"):
        deployed.predict({"features": z, "logits": np.zeros((300, 3))})
