"""pydantic's errors about params.yaml as one sentence: key, value, and what was expected."""

import difflib
import json
from typing import Any

from pydantic import ValidationError

from mistakes.errors import InputError

# keys, and numbers of list entries, from the whole document down to a value
Place = tuple[Any, ...]
Errors = list[tuple[Place, dict[str, Any]]]
# where pydantic's place has the kind of a mapping, such as a data set
KINDS = {
    "raw": 1,
    "classifiers": 2,
}
MOVED = {  # keys of earlier versions
    "guard": "detectors.guard",
    "adaptive.alpha": "detection.alpha",
    "adaptive.confidence": "detection.confidence_level",
    "detection.confidence": "detection.confidence_level",
    "hypotheses.confidence": "hypotheses.confidence_level",
    "images.held_out": "images.novel_classes",
}
EXPECTED = {  # pydantic's kinds of errors
    "bool_type": "true or false",
    "dict_type": "a mapping of keys",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "{ge:.15g} or more",
    "int_type": "an integer",
    "less_than": "less than {lt:.15g}",
    "less_than_equal": "{le:.15g} or less",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "string_type": "text",
    "too_short": "{min_length} or more entries",
    "union_tag_not_found": "a mapping of keys",
}
PATTERNS = {
    r"^[A-Za-z0-9_]+$": "letters, digits and _ only",
    r"^[\w.]+$": "letters, digits, _ and dots only",
    r"^[\w.]+:\w+$": "package.module:function",
}


def refusal(error: ValidationError, document: dict[str, Any], where: str) -> InputError:
    """Return pydantic's first error about ``document``, which stands in the file ``where``."""
    errors: Errors = [(_place(one["loc"], document), dict(one)) for one in error.errors()]
    # a misspelt key is unknown, and missing as well
    place, first = min(errors, key=lambda pair: pair[1]["type"] == "missing")
    kind, name, value = first["type"], first["loc"][-1], _at(place, document)
    if kind == "missing":
        return InputError(where, f"{_dotted((*place, name))} is missing (there are no defaults)")
    if kind.startswith("union_tag") and isinstance(value, dict):
        return InputError(where, _undecided(_dotted(place), value, first))
    if kind in ("extra_forbidden", "invalid_key"):
        place = (*(place[:-1] if place[-1:] == (name,) else place), str(name))
        if moved := MOVED.get(_dotted(place)):
            return InputError(where, f"unknown key {_dotted(place)} (it is {moved} now)")
        return InputError(where, f"unknown key {_dotted(place)}{_near(place, errors, document)}")
    if name == "[key]":
        parent = place[:-1] if place[-1:] == (first["input"],) else place
        may = (
            f"expected {_expected(first)}"
            if kind == "literal_error"
            else "a name has letters, digits and _ only"
        )
        return InputError(where, f"{_dotted(parent)} has a key {shown(first['input'])}, but {may}")
    expected = dict.fromkeys(_expected(other) for there, other in errors if there == place)
    if "a number" in expected:
        expected.pop("an integer", None)
    return InputError(
        where, f"{_dotted(place)} is {shown(value)}, expected {' or '.join(expected)}"
    )


def shown(value: Any) -> str:
    """Return a value in the spelling of YAML; of a long one only what kind it is."""
    if isinstance(value, str | float):
        text = repr(value)
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
        except ValueError:  # an alias that points at what holds it
            text = repr(value)
    if len(text) <= 80:
        return text
    return (
        "a mapping"
        if isinstance(value, dict)
        else "a list"
        if isinstance(value, list)
        else f"{text[:60]}..."
    )


def _place(loc: Place, document: Any) -> Place:
    """Return the part of pydantic's place that leads through ``document``; pydantic adds names of
    types and kinds.
    """
    kind = KINDS.get(loc[0], len(loc))
    path: Place = ()
    for part in loc[:kind] + loc[kind + 1 :]:
        if (
            part in document
            if isinstance(document, dict)
            else isinstance(document, list) and isinstance(part, int)
        ):
            path, document = (*path, part), document[part]
    return path


def _at(place: Place, document: Any) -> Any:
    for part in place:
        document = document[part]
    return document


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _undecided(key: str, value: dict[str, Any], error: dict[str, Any]) -> str:
    """Say that the key which decides about the others is missing, or that it names nothing that
    there is.
    """
    deciders = ["dataset"] if key == "raw" else ["method", "source"]
    given = [name for name in deciders if value.get(name)]
    if not given:
        return f"{key}.{' or '.join(deciders)} is missing (there are no defaults)"
    return (
        f"{key}.{given[-1]} is {shown(value[given[-1]])}, expected one of"
        f" {error['ctx']['expected_tags']}"
    )


def _near(place: Place, errors: Errors, document: dict[str, Any]) -> str:
    """Return a question after the key that was probably meant: one that is missing, or one of the
    neighbours.
    """
    parent, unknown = (
        place[:-1],
        {there for there, one in errors if one["type"] in ("extra_forbidden", "invalid_key")},
    )
    known = [
        one["loc"][-1] for there, one in errors if one["type"] == "missing" and there == parent
    ]
    known += [
        key
        for key in _at(parent, document)
        if isinstance(key, str) and (*parent, key) not in unknown
    ]
    close = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.7)
    return f" (did you mean {_dotted((*parent, *close))}?)" if close else ""


def _expected(error: dict[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text of the form {context['pattern']}")
    problem = str(error["msg"]).removeprefix("Value error, ")
    return EXPECTED[kind].format(**context) if kind in EXPECTED else problem
