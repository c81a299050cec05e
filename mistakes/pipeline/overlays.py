"""Experiments as overlays: YAML files that hold only what differs from the committed params.yaml.

A mapping is merged key by key; anything else replaces what was there, with two exceptions. null
removes a mapping, such as a classifier or an attack. A mapping with another ``dataset`` (section
raw) or ``source`` (a custom classifier) replaces the whole one, because the two have different
keys. ``like: NAME`` starts an entry from a copy of its neighbour NAME.
"""

import copy
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mistakes.artifacts import save_text
from mistakes.config import params, refusals
from mistakes.errors import InputError
from mistakes.pipeline import snapshot

PARAMS = Path("params.yaml")
MARK = "# Written by `mistakes use"


def use(paths: Sequence[Path], revision: str = "HEAD", force: bool = False) -> None:
    """Write params.yaml: that of a git revision, with the overlays at ``paths`` laid on it in this
    order.

    Comments stay. Raises InputError, and changes nothing, where a file is no YAML or the result is
    invalid, and, unless forced, where params.yaml was edited since git or this function wrote it.
    """
    base = snapshot.GitTree(revision).read(str(PARAMS))
    if base is None:
        raise InputError(f"params.yaml of {revision}", "there is no such file")
    if not force:
        _refuse_edited(snapshot.GitTree("HEAD").read(str(PARAMS)) or b"")
    text = params.decoded(base, PARAMS)
    if paths:
        body = applied(text, {str(path): params.decoded(params.read(path), path) for path in paths})
        title = " ".join(["use", *map(str, paths)])
        text = (
            f"# Written by `mistakes {title}` ({_digest(body)}); back to what is committed:"
            f" `mistakes use`\n{body}"
        )
    save_text(PARAMS, text)


def applied(base: str, overlays: dict[str, str]) -> str:
    """Return the text of params.yaml with overlays, given by name and text; raises InputError where
    it is invalid.
    """
    base = _without_mark(base.replace("\r\n", "\n"))
    values = params.parse_yaml(base, str(PARAMS))
    for where, text in overlays.items():
        values = merged(values, params.parse_yaml(text, where), where)
    where = " + ".join([str(PARAMS), *overlays])
    body = _dump(base, values)
    params.parse(body, where)
    if params.parse_yaml(body, where) != values:
        raise InputError(
            PARAMS, "it has an alias (*NAME) whose value would change as well (write it out first)"
        )
    return body


def merged(
    base: dict[str, Any], overlay: dict[str, Any], where: str, prefix: str = ""
) -> dict[str, Any]:
    """Return ``base`` with ``overlay`` laid on it, as the module says; ``where`` and ``prefix`` are
    for errors.
    """
    result = copy.deepcopy(base)
    for key, value in overlay.items():
        old, place = result.get(key), f"{prefix}{key}"
        if value is None and isinstance(old, dict):
            del result[key]
            continue
        if isinstance(value, dict) and "like" in value:
            known = {name: entry for name, entry in base.items() if isinstance(entry, dict)}
            # of a list, since what stands there may have no hash
            if value["like"] not in list(known):
                there = f"one of {', '.join(map(str, known))}"
                raise InputError(
                    where, f"{place}.like is {refusals.shown(value['like'])}, expected {there}"
                )
            old = known[value["like"]]
            value = {name: part for name, part in value.items() if name != "like"}
        if isinstance(value, dict) and isinstance(old, dict) and not _another(old, value):
            result[key] = merged(old, value, where, f"{place}.")
        else:
            result[key] = copy.deepcopy(value)
    return result


def _another(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return any(key in new and old.get(key) != new[key] for key in ("dataset", "source"))


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def _without_mark(text: str) -> str:
    return text.split("\n", 1)[1] if text.startswith(MARK) else text


def _refuse_edited(committed: bytes) -> None:
    """Refuse to lose edits: the file must be as committed, or as its own first line says that it
    was written.
    """
    present = (PARAMS.read_bytes() if PARAMS.exists() else committed).replace(b"\r\n", b"\n")
    if present == committed.replace(b"\r\n", b"\n"):
        return
    first, _, body = present.decode(errors="replace").partition("\n")
    written = re.search(r"\(([0-9a-f]{8})\)", first) if first.startswith(MARK) else None
    if written is None or written[1] != _digest(body):
        raise InputError(
            PARAMS, "it was edited by hand (commit it, or lose the edits with --force)"
        )


def _dump(base: str, values: dict[str, Any]) -> str:
    """Return ``base`` with its comments, changed to hold ``values``."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(base)
    _change(document, values)
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _change(document: Any, values: dict[str, Any]) -> None:
    for key in [key for key in document if key not in values]:
        del document[key]
    for key, value in values.items():
        if key in document and isinstance(document[key], dict) and isinstance(value, dict):
            _change(document[key], value)
        elif key not in document or document[key] != value:
            document[key] = value
