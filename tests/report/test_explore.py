"""The page to look around in: its numbers against the tables, and a browser that clicks through."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from checkouts import Checkout
from PIL import Image

import stages.explore
from mistakes.artifacts import save_arrays, save_csv, save_json
from mistakes.evaluation import score_table
from mistakes.report import explore

REPORT = "data/report/report.html"


@pytest.fixture
def scores(rng: np.random.Generator) -> pd.DataFrame:
    def rows(origin: str, name: str, n: int, right: float) -> pd.DataFrame:
        correct = rng.random(n) < right
        label = rng.integers(0, 3, n) if origin != "ood" else np.full(n, -1)
        known = {"origin": origin, "set": name, "index": np.arange(n), "label": label}
        seen = {"prediction": np.where(correct, label, (label + 1) % 3), "correct": correct}
        drawn = {c: rng.normal(size=n) for c in ("map_1", "map_2", "nll")}
        more = {"reason": "density", "p_guard": rng.random(n), "confidence": rng.random(n)}
        return pd.DataFrame(known | seen | drawn | more)

    parts = [rows("id", "test", 400, 0.8), rows("adversarial", "pgd", 600, 0.3)]
    return pd.concat([*parts, rows("ood", "noise", 500, 0)], ignore_index=True)


def test_costs_are_counted(scores: pd.DataFrame) -> None:
    found, test = explore.costs(scores, 0.95), score_table.test(scores)
    at = 40
    alpha = explore.ALPHAS[at]
    kept = test["p_guard"] > alpha
    for name, expected in (
        ("false alarms", (test.loc[test["correct"], "p_guard"] <= alpha).mean()),
        ("mistakes", (test.loc[~test["correct"], "p_guard"] <= alpha).mean()),
        ("coverage", kept.mean()),
        ("error", 1 - test.loc[kept, "correct"].mean()),
        ("OOD inputs", (scores.query("origin == 'ood'")["p_guard"] <= alpha).mean()),
    ):
        value, low, high = found[name][at]
        assert value == pytest.approx(expected, abs=1e-5)
        assert low <= value <= high
    assert len(found["error"]) == len(explore.ALPHAS)


def test_what_is_drawn_has_all_mistakes_and_the_others_evenly(
    scores: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "MOST", {"test": 200, "adversarial": 50, "ood": 100})
    drawn = explore.drawn(scores)
    test = drawn[drawn["origin"] == "id"]
    assert (~test["correct"]).sum() == (~score_table.test(scores)["correct"]).sum()
    assert len(test) == 200
    attacks = drawn[drawn["origin"] == "adversarial"]
    assert len(attacks) == 50
    assert not attacks["correct"].any()
    assert len(drawn) == 350
    assert attacks["index"].max() > 550


def test_small_images_lie_where_the_page_looks_for_them(rng: np.random.Generator) -> None:
    images = np.repeat(rng.integers(0, 256, (300, 3, 1, 1), np.uint8), 16, 2).repeat(16, 3)
    found = explore.sprite(images)
    data = base64.b64decode(found["uri"].split(",")[1])
    grid = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    for i in (0, 127, 128, 299):
        row, column = divmod(i, found["columns"])
        shown = grid[row * 16 + 8, column * 16 + 8]
        assert np.abs(shown - images[i, :, 0, 0]).max() < 40  # WebP is lossy


@pytest.mark.slow
def test_a_browser_shows_what_the_tables_say(reproduced: Checkout, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def text(name: str) -> str:
        return browser.find_element(By.ID, name).text

    folder: Path = reproduced.folder / "data"
    table = score_table.load(folder / "scores/smoke/scores.parquet")
    test = score_table.test(table)
    browser.get(f"file://{folder}/explore/explore.html")
    WebDriverWait(browser, 60).until(
        lambda b: b.find_element(By.TAG_NAME, "body").get_attribute("data-ready") == "true"
    )
    wrong = int((~test["correct"]).sum())
    assert text("summary") == f"smoke: {wrong} mistakes on {len(test)} test inputs."

    slices = pd.read_csv(folder / "explore/smoke_slices.csv")
    rows = browser.find_elements(By.CSS_SELECTOR, "#slice_table tbody tr")
    shown = [row.find_elements(By.TAG_NAME, "td") for row in rows]
    assert [int(cells[3].text) for cells in shown] == list(slices["errors"])
    assert [cells[0].text for cells in shown] == list(slices["name"])
    rows[0].find_element(By.TAG_NAME, "button").click()
    assert text("list").startswith(f"{slices['errors'][0]} mistakes of {slices['name'][0]}")
    browser.find_element(By.CSS_SELECTOR, "#list .picture").click()
    assert "(wrong)" in text("card")

    alpha = float(text("alpha_value"))
    flagged = (test.loc[test["correct"], "p_guard"] <= alpha).mean()
    first = browser.find_element(By.CSS_SELECTOR, "#cost_table tbody td:nth-child(2)").text
    assert first.startswith(f"{100 * flagged:.1f} %")
    browser.execute_script(
        "const a = document.getElementById('alpha'); a.value = a.max; a.oninput();"
    )
    assert float(text("alpha_value")) == explore.ALPHAS[-1]

    Select(browser.find_element(By.ID, "colour")).select_by_value("reason")
    for box in browser.find_elements(By.CSS_SELECTOR, "#sets input")[1:]:
        box.click()
    drawn = browser.execute_script(
        "return document.getElementById('plot').data.reduce((n, t) => n + t.x.length, 0)"
    )
    assert drawn == len(explore.drawn(table.assign(confidence=-table["msp"])))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_page_asks_for_nothing_from_elsewhere(reproduced: Checkout) -> None:
    page = (reproduced.folder / "data/explore/explore.html").read_text()
    outside = page.replace("http://www.w3.org", "")
    head, _, rest = outside.partition('<script type="application/json" id="data">')
    data = json.loads(rest.partition("</script>")[0])
    assert "http" not in head
    assert len(page) < 10_000_000
    assert {one["name"] for one in data["classifiers"]} == {"smoke"}
    for here, text in (
        (reproduced.folder / "data/explore", head + rest.partition("</script>")[2]),
        (reproduced.folder / "data/report", (reproduced.folder / REPORT).read_text()),
    ):
        links = re.findall(r'<a href="([^"#]+)"', text)
        assert [link for link in links if not (here / link).is_file()] == []
        assert links


def test_own_images_have_slices_by_folder_and_group(tmp_path: Path) -> None:
    raw, data = tmp_path / "raw", tmp_path / "images"
    save_json(raw / "dataset.json", {"dataset": "image_folder", "parts": ["train", "test"]})
    for part, names in (("train", ["cat/1.png"]), ("test", ["cat/night/2.png", "dog/day/x/3.png"])):
        rows = {"file": names, "sha256": ["0"] * len(names), "group": ["p"] * len(names)}
        save_csv(raw / part / "files.csv", pd.DataFrame(rows))
    save_arrays(data / "test", indices=np.array([2, 1, 0]))
    names, beside = stages.explore.tested(raw, data)
    assert names == ["dog/day/x/3.png", "cat/night/2.png", "cat/1.png"]
    assert beside.to_dict("list") == {"group": ["p"] * 3, "folder": ["day/x", "night", ""]}
    save_json(raw / "dataset.json", {"dataset": "mnist"})
    names, beside = stages.explore.tested(raw, data)
    assert names == ["row 2", "row 1", "row 0"]
    assert not len(beside)


def test_every_slice_names_its_inputs(reproduced: Checkout) -> None:
    folder = reproduced.folder / "data/explore"
    rows = pd.read_csv(folder / "smoke_slices.csv")
    members = pd.read_csv(folder / "smoke_members.csv")
    sizes = members.groupby(["kind", "name"]).agg(n=("input", "size"), right=("correct", "sum"))
    for row in rows.to_dict("records"):
        found = sizes.loc[row["kind"], row["name"]]
        assert (found["n"], found["n"] - found["right"]) == (row["n"], row["errors"])
    known = np.load(reproduced.folder / "data/images/test/indices.npy")
    assert set(members["input"]) <= {f"row {i}" for i in known}
