"""Texts of several thousand tokens to calibrate and to judge attention on, from the standard library and an installed package's licence.

No text shares a passage with another: topics of the language reference repeat parts of each other, and these two do not.
"""

import sysconfig
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics

CALIBRATION = ("special names", "difflib.py")
"""Prose and source code; choices are made on these."""
HELD_OUT = ("compound statements", "statistics.py", "licences of numpy")
"""Prose, source code, and legal English, of which calibration has none; nothing is chosen on these."""


def long_text(name: str) -> str:
    """One of the texts above by name, at least 40,000 characters. Raises KeyError for another name."""
    return _TEXTS[name]()


def _topic(name: str) -> str:
    return topics[name]


def _source(module: str) -> str:
    return (Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py").read_text(encoding="utf-8")


def _licence(package: str) -> str:
    found = [path for path in metadata.files(package) or () if path.name == "LICENSE.txt" and "dist-info" in str(path)]
    return min(found, key=lambda path: len(path.parts)).read_text(encoding="utf-8")


_TEXTS = {
    "special names": lambda: _topic("specialnames"),
    "difflib.py": lambda: _source("difflib"),
    "compound statements": lambda: _topic("compound"),
    "statistics.py": lambda: _source("statistics"),
    "licences of numpy": lambda: _licence("numpy"),
}
