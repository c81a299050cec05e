"""The user's own code behind an entry point: its modules, and a key of what stands in them."""

import ast
import hashlib
import importlib.util
import sysconfig
from pathlib import Path

ELSEWHERE = ("mistakes", "stages")  # DVC watches the project's code


def files(entrypoint: str) -> dict[str, Path]:
    """Return the files of the modules that ``package.module:function`` is made of, by module name.

    Those that it imports are followed, at the top or inside a function; what Python or pip
    installed is left out. Empty where the module cannot be found.
    """
    found: dict[str, Path] = {}
    waiting = [entrypoint.partition(":")[0]]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file(name)
        if path is not None:
            found[name] = path
            waiting += _imported(name, path)
    return found


def key(entrypoint: str) -> str:
    """Return 64 hexadecimal digits for the code of an entry point, wherever its files lie."""
    texts = [(name, path.read_bytes()) for name, path in sorted(files(entrypoint).items())]
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def _file(name: str) -> Path | None:
    """Return the file of a module of the user's, found without running any; a package's own is its
    __init__.py.
    """
    top, *inside = name.split(".")
    try:
        spec = None if top in (*ELSEWHERE, "__main__") else importlib.util.find_spec(top)
    except ValueError:  # a module that was made by hand
        spec = None
    if spec is None:
        return None
    if not inside:
        places = [Path(spec.origin)] if spec.has_location and spec.origin else []
    else:
        folders = [Path(folder, *inside) for folder in spec.submodule_search_locations or []]
        places = [
            place
            for path in folders
            for place in (path / "__init__.py", path.with_name(path.name + ".py"))
        ]
    installed = {
        Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")
    }
    for path in (place.resolve() for place in places):
        if path.suffix == ".py" and path.is_file() and not installed & set(path.parents):
            return path
    return None


def _imported(name: str, path: Path) -> list[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # who imports it will say so
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            )
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found
