"""Any classifier from its file: one that was trained here, or an own one."""

from pathlib import Path

from mistakes import classifier, own
from mistakes.artifacts import load_tensors

Model = classifier.Classifier | own.Own


def load(path: Path) -> Model:
    """Rebuild what stage classifier wrote, in evaluation mode. Raises InputError where the file is corrupt."""
    tensors, description = load_tensors(path)
    return own.rebuild(tensors, description, path) if "source" in description else classifier.load(path)
