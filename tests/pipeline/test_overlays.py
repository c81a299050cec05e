"""Overlays: what they merge to, valid experiments, and the command that applies them."""

import json
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout, clone
from commands import ROOT

from mistakes.config import params
from mistakes.errors import InputError
from mistakes.pipeline import overlays, snapshot

DEFAULT = (ROOT / "params.yaml").read_text()
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_a_small_valid_overlay_that_says_how_it_is_used(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"mistakes use {path.relative_to(ROOT)}" in text
    changed = overlays.applied(DEFAULT, {path.name: text})
    assert params.parse(changed) != params.parse(DEFAULT)
    assert "# one split into disjoint sets" in changed  # comments stay
    assert f"experiments/{path.name}" in (ROOT / "docs" / "experiments.md").read_text()


def test_merging() -> None:
    base = {
        "a": {"x": 1, "y": {"deep": 2}},
        "raw": {"dataset": "one", "key": 3},
        "list": [1, 2],
        "gone": {"z": 0},
    }
    overlay = {
        "a": {"y": {"deep": None}, "new": {"like": "y", "more": 5}},
        "list": [3],
        "gone": None,
        "raw": {"dataset": "two"},
    }
    merged = overlays.merged(base, overlay, "o.yaml")
    assert merged == {
        "a": {"x": 1, "y": {"deep": None}, "new": {"deep": 2, "more": 5}},
        "raw": {"dataset": "two"},
        "list": [3],
    }
    assert base["a"]["y"] == {"deep": 2}
    assert overlays.merged(base, {"raw": {"key": 4}}, "o.yaml")["raw"] == {
        "dataset": "one",
        "key": 4,
    }
    with pytest.raises(InputError, match=r"o.yaml: a.new.like is 'nobody', expected one of y"):
        overlays.merged(base, {"a": {"new": {"like": "nobody"}}}, "o.yaml")


def test_small_numbers_stay_numbers_and_comments_stay() -> None:
    changed = overlays.applied(
        DEFAULT, {"o": "flow: {learning_rate: 1e-05}\nimages: {novel_classes: [Shirt]}"}
    )
    assert params.parse(changed).flow.learning_rate == 1e-5
    assert "components: 24                # principal components" in changed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flow: {depth: 3}", "params.yaml + o.yaml: unknown key flow.depth"),
        ("flwo: {layers: 3}", "params.yaml + o.yaml: unknown key flwo (did you mean flow?)"),
        ("flow: {layers: two}", "params.yaml + o.yaml: flow.layers is 'two', expected an integer"),
        ("flow: null", "params.yaml + o.yaml: flow is missing (there are no defaults)"),
        (
            "classifiers: {nobody: null}",
            "params.yaml + o.yaml: classifiers.nobody is null, expected a mapping of keys",
        ),
        (
            "classifiers: {a: {like: [b]}}",
            'o.yaml: classifiers.a.like is ["b"], expected one of supervised',
        ),
        ("flow: {layers: 3, layers: 4}", "o.yaml: key flow.layers stands twice (lines 1 and 1)"),
        ("flow: [", "o.yaml: line 1 is not YAML"),
        ("- 3", "o.yaml: it is a list, expected a mapping of sections"),
        ("# nothing yet", "o.yaml: it is empty, expected a mapping of sections"),
    ],
)
def test_bad_overlays(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        overlays.applied(DEFAULT, {"o.yaml": text})
    assert str(caught.value).startswith(words)


def test_what_is_written_reads_the_same_for_dvc_and_means_what_the_overlay_says() -> None:
    from dvc.utils.serialize import loads_yaml

    novel_classes = ["yes", "no", "1:30", "5e-5", "1_000", "0x1F", "null", "", "é", "a: b", 8]
    overlay = (
        f"images: {{novel_classes: {json.dumps(novel_classes)}}}\n"
        "flow: {learning_rate: 5e-5, gradient_clip: 1E3}"
    )
    changed = overlays.applied(DEFAULT, {"o": overlay})
    assert loads_yaml(changed) == params.parse_yaml(changed, "params.yaml")
    values = params.parse(changed)
    assert values.images.novel_classes == novel_classes
    assert (values.flow.learning_rate, values.flow.gradient_clip) == (5e-5, 1000)


def test_an_alias_whose_value_would_change_as_well_is_refused() -> None:
    first = "fgsm_05: {attack: GradientSignAttack, norm: linf, arguments: {eps: 0.05}}"
    assert first in DEFAULT
    base = DEFAULT.replace(first, first.replace(": {a", ": &one {a", 1) + "\n    again: *one")
    assert params.parse(base).adversarial.attacks["again"].arguments == {"eps": 0.05}
    assert "layers: 3" in overlays.applied(base, {"o": "flow: {layers: 3}"})
    with pytest.raises(
        InputError, match=r"params.yaml: it has an alias \(\*NAME\) whose value would change"
    ):
        overlays.applied(base, {"o": "adversarial: {attacks: {fgsm_05: {arguments: {eps: 0.2}}}}"})


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return clone(tmp_path_factory.mktemp("overlays"))


def test_the_command_starts_from_what_is_committed_each_time(checkout: Checkout) -> None:
    path = checkout.folder / "params.yaml"
    committed = path.read_bytes()
    (checkout.folder / "a.yaml").write_text("flow: {layers: 3}")
    (checkout.folder / "b.yaml").write_text(
        "flow: {hidden: 9}\nclassifiers: {other: {like: smoke, seed: 5}}"
    )
    assert "classifiers: smoke, other" in checkout.run("mistakes", "use", "a.yaml", "b.yaml").stdout
    values = yaml.safe_load(path.read_text())
    assert (
        values["flow"]["layers"],
        values["flow"]["hidden"],
        values["classifiers"]["other"]["seed"],
    ) == (3, 9, 5)
    checkout.run("mistakes", "use", "b.yaml")
    assert params.load(path).flow.layers == 2
    checkout.run("git", "commit", "--quiet", "--all", "--message=b")
    checkout.run("mistakes", "use", "a.yaml")  # over the b that is committed now
    assert path.read_text().count(overlays.MARK) == 1
    assert (params.load(path).flow.layers, params.load(path).flow.hidden) == (3, 9)
    checkout.run("mistakes", "use", "--base", "HEAD~1")
    assert path.read_bytes() == committed


def test_edits_are_not_lost_and_a_refusal_changes_nothing(checkout: Checkout) -> None:
    path = checkout.folder / "params.yaml"
    checkout.run("mistakes", "use", "--force")
    (checkout.folder / "bad.yaml").write_text("flow: {layers: 0}")
    before = path.read_bytes()
    for arguments in (["bad.yaml"], ["nowhere.yaml"], ["--base", "nowhere"]):
        done = checkout.run("mistakes", "use", *arguments, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert path.read_bytes() == before
    (checkout.folder / "a.yaml").write_text("flow: {layers: 3}")
    checkout.run("mistakes", "use", "a.yaml")
    checkout.set("alpha: 0.05", "alpha: 0.1")
    edited = path.read_bytes()
    done = checkout.run("mistakes", "use", "a.yaml", check=False)
    assert "params.yaml: it was edited by hand" in done.stderr
    assert "--force" in done.stderr
    assert path.read_bytes() == edited
    checkout.run("mistakes", "use", "a.yaml", "--force")
    assert params.load(path).detection.alpha == 0.05


@pytest.mark.slow
def test_numbers_that_dvc_exp_run_sets_are_numbers(checkout: Checkout) -> None:
    checkout.run("mistakes", "use", "--force")
    sets = [
        "flow.learning_rate=5e-5",
        "flow.gradient_clip=1E+3",
        "detectors.guard.learning_rate=.5",
    ]
    options = [part for one in sets for part in ("-S", one)]
    checkout.run(
        "dvc", "exp", "run", "--name", "small", *options, "raw"
    )  # a stage checks all parameters
    text = (checkout.folder / "params.yaml").read_text()
    assert "learning_rate: 5e-05" in text
    values = params.parse(text)
    assert (
        values.flow.learning_rate,
        values.flow.gradient_clip,
        values.detectors.guard.learning_rate,
    ) == (
        5e-5,
        1000,
        0.5,
    )
    tree = snapshot.GitTree("small", checkout.folder)
    assert snapshot.configuration(tree) == values
    checkout.run("mistakes", "use", "--force")
