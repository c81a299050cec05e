"""The code that each stage depends on, as dvc.yaml lists it, for DVC sees no imports.

``python -m mistakes.pipeline.deps`` writes it there. The two dear stages list the very files that
they import; for all others the folders do, so that a new module needs no entry. Needs grimp, which
the test extra brings.
"""

import re
from functools import cache
from pathlib import Path

import grimp

# minutes each: an edit elsewhere in a folder must not run them again
EXPENSIVE = (
    "classifier",
    "adversarial",
)
EXEMPT = ("mistakes.config", "mistakes.pipeline.runner")  # no default of theirs changes an artifact


@cache
def _graph() -> grimp.ImportGraph:
    graph = grimp.build_graph("mistakes", "stages", cache_dir=None)
    for module in list(graph.modules):
        if module.startswith(EXEMPT):
            graph.remove_module(module)
    return graph


def closure(stage: str) -> set[str]:
    """Return the files that ``stages/STAGE.py`` is made of: itself, and all that it imports, at the
    top or within.
    """
    graph = _graph()
    modules = {f"stages.{stage}", *graph.find_upstream_modules(f"stages.{stage}")}
    paths = (Path(*module.split(".")) for module in modules)
    return {
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).as_posix()
        for path in paths
    }


def listed(stage: str) -> list[str]:
    """Return what dvc.yaml lists for it: folders of modules, or for the expensive stages files."""
    files = closure(stage)
    if stage not in EXPENSIVE:
        files = {path if path.count("/") < 2 else path.rpartition("/")[0] for path in files}
    return sorted(files)


def main() -> None:
    """Write the lists into dvc.yaml, and leave every other line of it as it is."""
    path, lines, stage = Path("dvc.yaml"), [], ""
    for line in path.read_text().splitlines():
        if found := re.match(r"  (\w+):$", line):
            stage = found[1]
        entry = re.match(r"( +- )(?:mistakes|stages)/\S+$", line)
        if entry is None:
            lines.append(line)
        elif line.strip() == f"- stages/{stage}.py":  # the last one
            lines += [f"{entry[1]}{file}" for file in listed(stage)]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
