"""Fetch and verify the files of the data set (SHA-256), from whichever source answers."""

from pathlib import Path

from mistakes import sources
from mistakes.artifacts import save_json
from mistakes.stage import Run, stage


@stage
def main(run: Run, out: Path) -> None:
    """Write the raw files and dataset.json, which says what they are."""
    dataset = run.params.raw.dataset
    sources.fetch(dataset, out)
    save_json(out / "dataset.json", {"dataset": dataset, "sha256": sources.SHA256[dataset]})


if __name__ == "__main__":
    main()
