"""The rules of the house as functions of a source tree: each returns one sentence for every place that breaks its rule."""

import ast
import os
import re
from pathlib import Path

ROOMS = ("cost_model", "kernels", "passes", "rewriter", "models", "benchmarks")
LOWER = {
    "": ("rewriter", "passes", "kernels", "cost_model"),
    "cost_model": (),
    "kernels": ("cost_model",),
    "passes": ("kernels", "cost_model"),
    "rewriter": ("passes", "kernels", "cost_model", "models"),
    "models": (),
    "benchmarks": ("rewriter", "passes", "kernels", "cost_model", "models"),
}
MOST_LINES = 300
NOT_SOURCE = {".git", ".venv", "build", "dist", "__pycache__", "results"}


def sources(root: Path, *folders: str) -> list[Path]:
    """Python files below the folders (the whole tree when none is named), sorted, without what is built or installed."""
    found: list[Path] = []
    for folder in folders or (".",):
        for path, below, files in os.walk(root / folder):
            below[:] = [name for name in below if name not in NOT_SOURCE and not name.startswith((".", "out"))]
            found += [Path(path) / name for name in files if name.endswith(".py")]
    return sorted(found)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path, root: Path) -> list[tuple[int, str, bool]]:
    """(line, absolute module name below the root, whether written relatively) of every import in a file, nested ones too.

    `from . import name` counts as an import of `name`, since it may be a module.
    """
    package = path.relative_to(root).parent.parts
    found = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            found += [(node.lineno, f"{module}.{alias.name}".strip("."), bool(node.level)) for alias in node.names]
    return found


def upward_imports(root: Path) -> list[str]:
    """Imports that go up or sideways between rooms, or that name our own package absolutely."""
    wrong = []
    for path in [root / "__init__.py", *sources(root, *ROOMS)]:
        place = path.relative_to(root)
        room = place.parts[0] if len(place.parts) > 1 else ""
        for line, module, relative in imported(path, root):
            target = module.split(".")[0]
            if not relative:
                if target in ("szilard", *ROOMS):
                    wrong.append(f"{place}:{line} imports {module} absolutely: write it relatively.")
            elif target in ROOMS and target not in (room, *LOWER[room]):
                allowed = ", ".join(LOWER[room]) or "only itself"
                wrong.append(f"{place}:{line} imports {module}: {room or 'the root'} may import {allowed}.")
    return wrong


def long_files(root: Path) -> list[str]:
    """Python files of more than 300 lines."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root)}
    too_long = {path.relative_to(root): count for path, count in counts.items() if count > MOST_LINES}
    return [f"{place} has {count} lines: split it at {MOST_LINES}." for place, count in too_long.items()]


def missing_docstrings(root: Path) -> list[str]:
    """Modules with code, and public functions and classes at their top level, that have no docstring."""
    wrong = []
    for path in sources(root, *ROOMS):
        tree, place = parse(path), path.relative_to(root)
        if tree.body and not ast.get_docstring(tree):
            wrong.append(f"{place} has no docstring.")
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                wrong.append(f"{place}:{node.lineno} {node.name} has no docstring.")
    return wrong


def environment_reads(root: Path) -> list[str]:
    """Uses of os.environ and os.getenv in the rooms: an option is an argument, where it can be seen."""
    wrong = []
    for path in sources(root, *ROOMS):
        for node in ast.walk(parse(path)):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names}
            if names & {"environ", "environb", "getenv"}:
                wrong.append(f"{path.relative_to(root)}:{node.lineno} reads the environment: pass it as an argument.")
    return wrong


def packages_out_of_step(root: Path, listed: list[str]) -> list[str]:
    """Folders with an __init__.py that the wheel would leave out, and listed packages that do not exist."""
    folders = {path.parent.relative_to(root) for path in sources(root) if path.name == "__init__.py"}
    there = {".".join(("szilard", *folder.parts)) for folder in folders if folder.parts[:1] != ("tests",)}
    missing = [f"{name} is a package but not in pyproject.toml's list." for name in sorted(there - set(listed))]
    return missing + [f"{name} is in pyproject.toml's list but is no package." for name in sorted(set(listed) - there)]


def untested_sources(root: Path, exceptions: dict[str, str]) -> list[str]:
    """Files of the rooms, benchmarks aside, that no test file is named after, imports, or names in its module docstring (as `file.py`).

    `exceptions` gives paths and the reason why they need none.
    """
    tests = sources(root, "tests")
    names = {path.stem for path in tests}
    modules = {module.removeprefix("szilard.") for path in tests for _, module, _ in imported(path, root)}
    modules |= {module.rpartition(".")[0] for module in modules}
    told = " ".join(ast.get_docstring(parse(path)) or "" for path in tests)
    wrong = []
    for path in sources(root, *(room for room in ROOMS if room != "benchmarks")):
        place = path.relative_to(root)
        module = ".".join(place.with_suffix("").parts)
        ends = {f"test_{path.stem}", f"test_{path.parent.name}_{path.stem}"}
        named = ends & names or module in modules or re.search(rf"\b{path.name}\b", told)
        if not named and path.name != "__init__.py" and str(place) not in exceptions:
            wrong.append(f"{place} has no tests/test_{path.stem}.py, and no test imports or names it.")
    return wrong
