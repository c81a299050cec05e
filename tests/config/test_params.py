"""Bad input: one line that names file, key and value; a non-zero exit; nothing half-written."""

import copy
import functools
import operator
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml
from commands import ROOT, SMOKE, refused, run

from mistakes.config import params, refusals
from mistakes.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMOKE)
    return tmp_path


def broken(old: str, new: str) -> str:
    """Return the smoke parameters with a slip."""
    assert old in SMOKE
    return SMOKE.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (broken("  layers: 2\n", "  layers: 2\n  depth: 3\n"), "unknown key flow.depth"),
        (
            broken("  layers: 2\n", "  layer: 2\n"),
            "unknown key flow.layer (did you mean flow.layers?)",
        ),
        (broken("\nflow:", "\nflwo:"), "unknown key flwo (did you mean flow?)"),
        (broken("  layers: 2\n", ""), "flow.layers is missing (there are no defaults)"),
        (broken("  layers: 2\n", "  layers: two\n"), "flow.layers is 'two', expected an integer"),
        (broken("layers: 2", "layers: 2.0"), "flow.layers is 2.0, expected an integer"),
        (broken("layers: 2", "layers: 1e1"), "flow.layers is 10.0, expected an integer"),
        (broken("layers: 2", "layers: true"), "flow.layers is true, expected an integer"),
        (broken("layers: 2", "layers: 0"), "flow.layers is 0, expected 1 or more"),
        (
            broken("  seed: 0\n  split", "  seed: -1\n  split"),
            "flow.seed is -1, expected 0 or more",
        ),
        (
            broken("  seed: 0\n  split", "  seed: 4294967296\n  split"),
            "expected less than 4294967296",
        ),
        (
            broken("learning_rate: 1.0e-3", "learning_rate: fast"),
            "flow.learning_rate is 'fast', expected a number",
        ),
        (
            broken("learning_rate: 1.0e-3", "learning_rate: .inf"),
            "flow.learning_rate is inf, expected a finite number",
        ),
        (
            broken("learning_rate: 1.0e-3", "learning_rate: 1:30"),
            "flow.learning_rate is '1:30', expected a number",
        ),
        (
            broken("flip: false", "flip: no"),
            "classifiers.smoke.flip is 'no', expected true or false",
        ),
        (broken("alpha: 0.05", "alpha: 5"), "hypotheses.alpha is 5, expected less than 1"),
        (
            broken("kind: maf", "kind: glow"),
            "flow.kind is 'glow', expected 'maf', 'realnvp' or 'spline'",
        ),
        (
            broken("dataset: digits", "dataset: imagenet"),
            "raw.dataset is 'imagenet', expected one of 'fashion_mnist', ",
        ),
        (
            broken("    method: supervised", "    method: null"),
            "classifiers.smoke.method or source is missing",
        ),
        (broken("  gallery: 12", ""), "report is null, expected a mapping of keys"),
        (
            broken("report:\n  gallery: 12", "report: [gallery]"),
            'report is ["gallery"], expected a mapping of keys',
        ),
        (
            broken("  smoke:", "  my net:"),
            "classifiers has a key 'my net', but a name has letters, digits and _ only",
        ),
        (
            broken("  smoke:", "  a/b:"),
            "classifiers has a key 'a/b', but a name has letters, digits and _ only",
        ),
        (
            broken("novel_classes: []", "novel_classes: [1.5]"),
            "images.novel_classes.0 is 1.5, expected an integer or text",
        ),
        (
            broken("device: auto", "device: &a [*a]"),
            "device is [[...]], expected 'auto', 'cpu' or 'cuda'",
        ),
    ],
)
def test_parameters(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        params.parse(text)
    assert str(caught.value).startswith("params.yaml: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: 1\nb: [\nc: 2\n",
            (
                "line 4 is not YAML: expected ',' or ']', but got '<stream end>' (in what begins in"
                " line 2)"
            ),
        ),
        ("a:\n\tb: 1\n", "line 2 is not YAML: it has a tab where spaces are expected"),
        ("a: 1\nb: \a", "line 2 is not YAML: it has a control character"),
        ("a: 2024-13-01", "it has a value that cannot be read (month must be in 1..12)"),
        (
            "a: 1\nb: !!python/object/apply:os.getcwd []",
            "line 2 is not YAML: could not determine a constructor",
        ),
        ("a: *nobody", "line 1 is not YAML: found undefined alias 'nobody'"),
        ("flow: {}\n\nraw: {}\nflow: {}\n", "key flow stands twice (lines 1 and 4)"),
        (
            "flow:\n  layers: 2\n  hidden: 3\n  layers: 2\n",
            "key flow.layers stands twice (lines 2 and 4)",
        ),
        ("a: [{b: 1}, {b: 1, b: 2}]", "key a.1.b stands twice (lines 1 and 1)"),
        ("a: &x [*x]\nb: 1\nb: 2", "key b stands twice (lines 2 and 3)"),
        ("a: 1\n---\na: 1\n", "line 2 is not YAML: found another document"),
        ("a: " + "[" * 5000, "it is nested too deeply to be read"),
        ("", "it is empty, expected a mapping of sections"),
        ("# nothing", "it is empty, expected a mapping of sections"),
        ("- raw\n- images\n", "it is a list, expected a mapping of sections"),
        ("raw", "it is 'raw', expected a mapping of sections"),
        ("a: 1\nb: é\n".encode("latin-1"), "line 2 is not UTF-8 text (save the file as UTF-8)"),
        ("a: 1\n".encode("utf-16"), "line 1 is not UTF-8 text (save the file as UTF-8)"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused_with_its_line(text: str | bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        params.parse_yaml(text, "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {words}")
    assert "\n" not in str(caught.value)


def test_a_stage_refuses_parameters_in_one_line_and_writes_nothing(folder: Path) -> None:
    (folder / "params.yaml").write_text(broken("  layers: 2\n", "  layer: 2\n"))
    refused(
        run(folder, "raw", "data/raw"),
        "params.yaml: unknown key flow.layer (did you mean flow.layers?)",
    )
    assert not (folder / "data").exists()


def test_whatever_stands_anywhere_is_accepted_or_refused_in_one_line() -> None:
    """Each value of the document in turn is missing, or has a neighbour that is unknown, or is
    something else.
    """
    document = params.parse_yaml(SMOKE, "params.yaml")
    others = [
        None,
        True,
        -1,
        0,
        1.5,
        "x",
        "a b",
        [],
        {},
        [None],
        [[1]],
        {"a b": 1},
        {1: 2},
        {None: 3},
        float("nan"),
        float("inf"),
        10**40,
        date(2024, 1, 1),
        {"x"},
        "y" * 100,
    ]

    def places(value: object, place: tuple = ()) -> Iterator[tuple]:
        inside = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else ()
        )
        for key, part in inside:
            yield (*place, key)
            yield from places(part, (*place, key))

    refusals = []
    for *parents, last in list(places(document)):
        for other in [*others, "absent", "neighbour"]:
            changed = copy.deepcopy(document)
            parent = functools.reduce(operator.getitem, parents, changed)
            if other == "absent":
                del parent[last]
            elif other == "neighbour" and isinstance(parent, dict):
                parent["neighbour"] = 1
            else:
                parent[last] = other
            try:
                params.validated(changed, "params.yaml")
            except InputError as error:
                refusals.append(str(error))
    assert len(refusals) > 3000
    assert not [sentence for sentence in refusals if "\n" in sentence]


@pytest.mark.parametrize(
    "text", [SMOKE, "\ufeff" + SMOKE, SMOKE.replace("\n", "\r\n"), "%YAML 1.2\n---\n" + SMOKE]
)
def test_encodings_and_line_ends_that_other_editors_write(text: str) -> None:
    assert params.parse(text.encode()) == params.parse(SMOKE)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5e-05", 5e-5),
        ("5e-5", 5e-5),
        ("1E-3", 1e-3),
        (".5", 0.5),
        ("1e5", 1e5),
        ("1.e3", 1e3),
        ("1_000", 1000),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1", 1),
    ],
)
def test_numbers_are_those_of_yaml_1_2_as_dvc_reads_them(written: str, value: float) -> None:
    from dvc.utils.serialize import loads_yaml

    text = SMOKE.replace("learning_rate: 1.0e-3", f"learning_rate: {written}")
    assert (
        params.parse(text).flow.learning_rate == loads_yaml(text)["flow"]["learning_rate"] == value
    )


@pytest.mark.parametrize(
    "path",
    [ROOT / "params.yaml", ROOT / "tests/smoke/params.yaml", *ROOT.glob("experiments/*.yaml")],
)
def test_the_files_of_the_project_mean_the_same_in_yaml_1_1(path: Path) -> None:
    assert params.parse_yaml(path.read_bytes(), path) == yaml.safe_load(path.read_text())


def test_parameters_are_frozen() -> None:
    values = params.parse(SMOKE)
    with pytest.raises(ValueError, match="frozen"):
        values.flow.layers = 3


@pytest.mark.parametrize(("old", "new"), refusals.MOVED.items())
def test_a_key_of_an_earlier_version_is_refused_with_its_new_place(old: str, new: str) -> None:
    document = yaml.safe_load(SMOKE)
    *section, key = old.split(".")
    functools.reduce(operator.getitem, section, document)[key] = 0.1
    with pytest.raises(InputError, match=re.escape(f"unknown key {old} (it is {new} now)")):
        params.validated(document, "params.yaml")
    assert functools.reduce(operator.getitem, new.split("."), yaml.safe_load(SMOKE)) is not None
