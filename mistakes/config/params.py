"""The parameters: params.yaml read, checked against the sections of module sections, refused in one
line.

YAML is read by the library and in the way of DVC, which writes and hashes the same file: as YAML
1.2, in which 5e-05 is a number, 010 is ten, and yes and 1:30 are text.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from mistakes.config import classifiers, raw, refusals, sections
from mistakes.config.sections import Name, Section
from mistakes.errors import InputError


class Params(Section):
    """All of params.yaml."""

    device: Literal["auto", "cpu", "cuda"]
    raw: Annotated[raw.Fetched | raw.ImageFolder | raw.FeatureFiles, Field(discriminator="dataset")]
    images: sections.Images
    classifiers: Annotated[dict[Name, classifiers.Classifier], Field(min_length=1)]
    features: sections.Features
    flow: sections.Flow
    detectors: sections.Detectors
    adversarial: sections.Adversarial
    ood: sections.Ood
    corruptions: sections.Corruptions
    scores: sections.Scores
    hypotheses: sections.Hypotheses
    detection: sections.Detection
    adaptive: sections.Adaptive
    explore: sections.Explore
    report: sections.Report


def parse(text: str | bytes, where: str = "params.yaml") -> Params:
    """Return the validated parameters.

    Raises InputError naming the first key that is unknown, missing or mistyped; ``where`` names the
    source.
    """
    return validated(parse_yaml(text, where), where)


def validated(document: dict[str, Any], where: str) -> Params:
    """Return the parameters that a mapping holds; raises InputError as parse does."""
    try:
        values = Params.model_validate(document)
    except ValidationError as error:
        raise refusals.refusal(error, document, where) from None
    _check_given(values, where)
    _check_ood(values, where)
    _check_groups(values, where)
    return values


def _check_given(values: Params, where: str) -> None:
    """Refuse own features beside a classifier that wants images, and the other way round."""
    given = isinstance(values.raw, raw.FeatureFiles)
    for name, classifier in values.classifiers.items():
        if given and not isinstance(classifier, classifiers.Precomputed):
            expected = "{source: features}, since raw.dataset is features"
            raise InputError(where, f"classifiers.{name}", "a network", expected)
        if not given and isinstance(classifier, classifiers.Precomputed):
            expected = "a network (source: features goes with raw.dataset: features)"
            raise InputError(where, f"classifiers.{name}.source", "features", expected)
    if given and values.images.novel_classes:
        expected = "[]: the model whose outputs are given knows every class"
        raise InputError(where, "images.novel_classes", values.images.novel_classes, expected)


def _check_ood(values: Params, where: str) -> None:
    """Refuse OOD sets that no stage makes, and the in-distribution data set as one."""
    fetched = list(values.raw.ood)
    if isinstance(values.raw, raw.FeatureFiles):
        for name in values.ood.sets:
            if name not in fetched:
                raise InputError(
                    where,
                    "ood.sets",
                    name,
                    f"sets that raw.ood names ({', '.join(fetched) or 'none'})",
                )
        return
    if not values.ood.sets:
        raise InputError(where, "ood.sets", [], "at least one set")
    if len(set(fetched)) < len(fetched) or values.raw.dataset in fetched:
        raise InputError(where, "raw.ood", fetched, "other data sets than raw.dataset, each once")
    corrupted = [
        f"{kind}_{n}" for kind in values.corruptions.kinds for n in values.corruptions.severities
    ]
    for name in fetched:
        if name in values.adversarial.attacks or name in corrupted:
            raise InputError(
                where, f"raw.ood.{name} has the name of an attack or a corruption; give it another"
            )
    for name in values.ood.sets:
        if name not in (*sections.DRAWN, *fetched):
            expected = (
                f"sets among {', '.join(sections.DRAWN)}, and data sets that raw.ood fetches or"
                " names"
            )
            raise InputError(where, "ood.sets", name, expected)


def _check_groups(values: Params, where: str) -> None:
    known = {*sections.DRAWN, *values.ood.sets, *getattr(values.raw, "ood", ()), "novel_classes"}
    for group, sets in values.detection.groups.items():
        for name in sets:
            if name not in known:
                raise InputError(
                    where, f"detection.groups.{group}", name, "OOD sets, or novel_classes"
                )


def decoded(data: bytes, where: object) -> str:
    """Return UTF-8 as text, without a byte order mark; raises InputError where it is no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(where, f"line {line} is not UTF-8 text (save the file as UTF-8)") from None


def parse_yaml(text: str | bytes, where: object) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; raises InputError where it is not one, or a key
    stands twice.
    """
    text = decoded(text, where) if isinstance(text, bytes) else text
    try:
        values = YAML(typ="safe").load(text)
    except DuplicateKeyError as error:
        raise InputError(where, _twice(text, error)) from None
    except (YAMLError, ValueError, KeyError, RecursionError) as error:
        raise InputError(where, _no_yaml(text, error)) from None
    if values is None:
        raise InputError(where, "it is empty, expected a mapping of sections")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else refusals.shown(values)
        raise InputError(where, f"it is {kind}, expected a mapping of sections")
    return values


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and validate ``path``; raises InputError as parse does, and where the file cannot be
    read.
    """
    return parse(read(path), str(path))


def read(path: Path) -> bytes:
    """Return the bytes of a file; raises InputError where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(path, "there is no such file") from None
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})") from None


def _no_yaml(text: str, error: Exception) -> str:
    """Say in which line a text ceases to be YAML, and why."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply to be read"
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line} is not YAML: it has a control character"
    if not isinstance(error, MarkedYAMLError) or not (
        mark := error.problem_mark or error.context_mark
    ):
        # a value that looks like a number or a date, and is none
        return f"it has a value that cannot be read ({error})"
    if text[mark.index : mark.index + 1] == "\t":
        return f"line {mark.line + 1} is not YAML: it has a tab where spaces are expected"
    begun = error.context_mark.line if error.context_mark else mark.line
    since = f" (in what begins in line {begun + 1})" if begun != mark.line else ""
    return f"line {mark.line + 1} is not YAML: {error.problem.removeprefix('but ')}{since}"


def _twice(text: str, error: DuplicateKeyError) -> str:
    """Say which key stands twice in one mapping, and in which lines."""
    waiting: list[tuple[str, Any]] = [("", YAML(typ="safe").compose(text))]
    seen: set[int] = set()  # an alias may point at what holds it
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen or isinstance(node, ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, SequenceNode):
            waiting += [(f"{place}.{i}", part) for i, part in enumerate(node.value)]
            continue
        lines: dict[str, list[int]] = {}
        for key, value in node.value:
            name = f"{place}.{key.value}".removeprefix(".")
            waiting.append((name, value))
            lines.setdefault(name, []).append(key.start_mark.line + 1)
        for name, found in lines.items():
            if len(found) > 1:
                return f"key {name} stands twice (lines {' and '.join(map(str, found))})"
    # such as 1 and 1.0, two spellings of one key
    return f"line {error.problem_mark.line + 1}: {error.problem}"
