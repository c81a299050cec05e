"""Where the results of an MLflow row came from: which outputs, by their md5, and which run made
them.

It stands in one tag of the row, ``provenance``, by which rows are found, and for people in the
artifact provenance.json. Rows of older versions have a tag for each output (md5.PATH) and stage
(ran.STAGE, cached.STAGE), which are read too.
"""

import json
from dataclasses import asdict, dataclass

from mlflow.entities import Run

TAG = "provenance"
FORMER = ("md5.", "ran.", "cached.")  # how tags of older versions begin


@dataclass(frozen=True)
class Provenance:
    """Of a row: the md5 of each output by its path, and by stage the id of the run that made its
    outputs, in this row (``ran``) or in another (``cached``, "unknown" where none is known).
    """

    outputs: dict[str, str]
    ran: dict[str, str]
    cached: dict[str, str]

    def maker(self, stage: str) -> str:
        """Return the id of the run that made the outputs of ``stage``, or "unknown"."""
        return self.ran.get(stage) or self.cached.get(stage, "unknown")

    def text(self, indent: int | None = None) -> str:
        """Return it as JSON, which ``of`` reads."""
        return json.dumps(asdict(self), indent=indent, sort_keys=True)


def of(row: Run) -> Provenance:
    """Return what the tags of a row say; nothing where the row has no results yet."""
    tags = row.data.tags
    if TAG in tags:
        return Provenance(**json.loads(tags[TAG]))
    outputs, ran, cached = (
        {key.removeprefix(start): value for key, value in tags.items() if key.startswith(start)}
        for start in FORMER
    )
    return Provenance(outputs, ran, cached)
