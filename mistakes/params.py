"""The parameters: params.yaml read, checked against the sections of module sections, refused in one line."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from mistakes import entries, raws, sections
from mistakes.errors import InputError
from mistakes.sections import Name, Section


class Params(Section):
    """All of params.yaml."""

    device: Literal["auto", "cpu", "cuda"]
    raw: Annotated[raws.Fetched | raws.ImageFolder | raws.OwnFeatures, Field(discriminator="dataset")]
    images: sections.Images
    classifiers: Annotated[dict[Name, entries.Classifier], Field(min_length=1)]
    features: sections.Features
    flow: sections.Flow
    detectors: sections.Detectors
    guard: sections.Guard
    adversarial: sections.Adversarial
    ood: sections.Ood
    corruptions: sections.Corruptions
    hypotheses: sections.Hypotheses
    detection: sections.Detection
    adaptive: sections.Adaptive
    report: sections.Report


def parse(text: str | bytes, where: str = "params.yaml") -> Params:
    """Return the validated parameters.

    Raises InputError naming the first key that is unknown, missing or mistyped; ``where`` names the source.
    """
    try:
        values = Params.model_validate(parse_yaml(text, where))
    except ValidationError as error:
        raise _refusal(error, where) from None
    _check_given(values, where)
    _check_ood(values, where)
    return values


def _check_given(values: Params, where: str) -> None:
    """Refuse own features beside a classifier that wants images, and the other way round."""
    given = isinstance(values.raw, raws.OwnFeatures)
    for name, classifier in values.classifiers.items():
        if given and not isinstance(classifier, entries.GivenOutputs):
            expected = "{source: features}, since raw.dataset is features"
            raise InputError(where, f"classifiers.{name}", "a network", expected)
        if not given and isinstance(classifier, entries.GivenOutputs):
            expected = "a network (source: features goes with raw.dataset: features)"
            raise InputError(where, f"classifiers.{name}.source", "features", expected)
    if given and values.images.held_out:
        expected = "[]: the model whose outputs are given knows every class"
        raise InputError(where, "images.held_out", values.images.held_out, expected)


def _check_ood(values: Params, where: str) -> None:
    """Refuse OOD sets that no stage makes, and the in-distribution data set as one."""
    fetched = list(values.raw.ood)
    if isinstance(values.raw, raws.OwnFeatures):
        for name in values.ood.sets:
            if name not in fetched:
                raise InputError(where, "ood.sets", name, f"sets that raw.ood names ({', '.join(fetched) or 'none'})")
        return
    if not values.ood.sets:
        raise InputError(where, "ood.sets", [], "at least one set")
    if len(set(fetched)) < len(fetched) or values.raw.dataset in fetched:
        raise InputError(where, "raw.ood", fetched, "other data sets than raw.dataset, each once")
    corrupted = [f"{kind}_{n}" for kind in values.corruptions.kinds for n in values.corruptions.severities]
    for name in fetched:
        if name in values.adversarial.attacks or name in corrupted:
            raise InputError(where, f"raw.ood.{name} has the name of an attack or a corruption; give it another")
    for name in values.ood.sets:
        if name not in (*sections.DRAWN, *fetched):
            expected = f"sets among {', '.join(sections.DRAWN)}, and data sets that raw.ood fetches or names"
            raise InputError(where, "ood.sets", name, expected)


def parse_yaml(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; raises InputError where it is not one."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "text"
        raise InputError(where, line, getattr(error, "problem", "unreadable"), "YAML") from None
    if not isinstance(values, dict):
        raise InputError(where, "document", type(values).__name__, "a mapping of sections")
    return values


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and validate ``path``; raises InputError as parse does, and where the file cannot be read."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(path, "file", error.strerror, "a readable file") from None


def _refusal(error: ValidationError, where: str) -> InputError:
    first = error.errors()[0]
    place = first["loc"]
    # pydantic puts the value that decides about the other keys (the data set, the method) behind the place
    decider, depth = {"raw": ("dataset", 1), "classifiers": ("method (or source)", 2)}.get(
        str(place[0]), ("", len(place))
    )
    place = (*place[:depth], *place[depth + 1 :])
    key = ".".join(str(part) for part in place if not str(part).startswith("["))
    if first["type"] == "union_tag_invalid":
        return InputError(where, f"{key}.{decider}", first["ctx"]["tag"], f"one of {first['ctx']['expected_tags']}")
    if first["type"] == "union_tag_not_found":
        return InputError(where, f"{key}.{decider}", "missing", "a value (there are no defaults)")
    if first["type"] == "missing":
        return InputError(where, key, "missing", "a value (there are no defaults)")
    if first["type"] == "extra_forbidden":
        return InputError(where, key, "unknown", "only keys that mistakes/sections.py lists")
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return InputError(where, key, first["input"], expected)
