"""A model that is no image network: its features and logits are given, and there is nothing to
attack or corrupt.

Where outputs are given, the folder of a split or an OOD set holds features.npy and logits.npy
instead of images.npy.
"""

from collections.abc import Sequence
from pathlib import Path

from mistakes.artifacts import save_json, save_text

REASON = "outputs are given as files: there is no image to change and no network to run"


def outputs_in(folder: Path) -> bool:
    """Tell whether ``folder`` holds given outputs, not images."""
    return (folder / "features.npy").is_file()


def decline(
    stage: str,
    sets: Path,
    table: Path | None = None,
    columns: Sequence[str] = (),
    reason: str = REASON,
) -> dict[str, float]:
    """Say in one line why a stage does nothing, and return its metrics, none.

    ``sets``, the folder of its sets, then holds the reason and no set; ``table``, where it writes
    one, has no row.
    """
    print(f"{stage}: nothing to do: {reason}", flush=True)
    save_json(sets / "skipped.json", {"reason": reason})
    if table is not None:
        save_text(table, ",".join(columns) + "\n")
    return {}


def folders(root: Path) -> list[Path]:
    """Return the folders of sets, by name; there is none where a stage had nothing to do."""
    return sorted(path for path in root.iterdir() if path.is_dir())
