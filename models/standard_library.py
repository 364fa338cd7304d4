"""Text that every machine has: functions, classes and topics documented in the running Python's standard library.

Sources are parsed, never imported, so that nothing runs and the order depends on nothing but the files.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics as _pydoc_topics

MODULES = (
    "abc argparse ast asyncio base64 bdb bisect calendar cmd code codecs collections colorsys compileall concurrent configparser "
    "contextlib copy copyreg csv ctypes dataclasses datetime decimal difflib dis doctest email enum filecmp fileinput fnmatch "
    "fractions ftplib functools genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib importlib "
    "inspect io ipaddress json keyword linecache locale logging lzma mailbox mimetypes modulefinder multiprocessing netrc ntpath "
    "numbers operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint profile pstats pty "
    "py_compile pyclbr pydoc queue quopri random re reprlib rlcompleter runpy sched secrets selectors shelve shlex shutil signal site "
    "smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess sysconfig tabnanny tarfile tempfile textwrap "
    "threading timeit token tokenize trace traceback tracemalloc turtle types typing unittest urllib uuid venv warnings wave weakref "
    "webbrowser wsgiref xml xmlrpc zipapp zipfile zoneinfo"
)


def stable_order(text: str) -> bytes:
    """A sort key that shuffles texts the same way on every machine."""
    return hashlib.sha256(text.encode()).digest()


def _sources() -> Iterator[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for module in MODULES.split():
        yield from sorted((root / module).rglob("*.py")) if (root / module).is_dir() else [root / f"{module}.py"]


@cache
def documented() -> tuple[tuple[str, str, str], ...]:
    """(kind "function"|"class"|"module", signature or name, docstring) of every public documented definition, in file order."""
    found = []
    for path in _sources():
        if not path.is_file() or "test" in path.parts or path.parts[-2].startswith("_"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node)
            name = path.stem if isinstance(node, ast.Module) else node.name
            if not text or name.startswith("_"):
                continue
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(("function", f"{name}({ast.unparse(node.args)})", text))
            else:
                found.append(("class" if isinstance(node, ast.ClassDef) else "module", name, text))
    return tuple(found)


def first_line(docstring: str) -> str:
    """The summary of a docstring: its first paragraph on one line."""
    return " ".join(docstring.strip().split("\n\n")[0].split())


def topics() -> list[str]:
    """The language reference that `help()` shows, one text a topic, sorted by name (about 465 KB)."""
    return [_pydoc_topics[name] for name in sorted(_pydoc_topics)]
