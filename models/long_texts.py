"""Texts of several thousand tokens to calibrate and to judge attention on, from the standard library and an installed package's licence.

No text shares a passage with another: topics of the language reference repeat parts of each other, and these two do not.
"""

import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from .embedding import tokens

CALIBRATION = ("special names", "difflib.py")
"""Prose and source code; choices are made on these."""
HELD_OUT = ("compound statements", "statistics.py", "licences of numpy")
"""Prose, source code, and legal English, of which calibration has none; nothing is chosen on these."""


def long_text(name: str) -> str:
    """One of the texts above by name, at least 40,000 characters. Raises KeyError for another name, ValueError where
    a package was installed without the text."""
    return _TEXTS[name]()


def long_calibration(tokenizer: Any, names: Sequence[str], max_length: int) -> list[dict[str, np.ndarray]]:
    """Inputs called `names`, each int64 [1, L], L at most `max_length`: texts to calibrate on and held-out ones in turn, so that who holds
    back every second sample holds back the latter."""
    return [
        tokens(tokenizer, [long_text(name)], names, max_length)
        for pair in zip(CALIBRATION, HELD_OUT, strict=False)
        for name in pair
    ]


def _topic(name: str) -> str:
    return topics[name]


def _source(module: str) -> str:
    return (Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py").read_text(encoding="utf-8")


def _licence(package: str) -> str:
    found = [path for path in metadata.files(package) or () if path.name == "LICENSE.txt" and "dist-info" in str(path)]
    if not found:
        raise ValueError(f"{package} was installed without its LICENSE.txt, a text to judge on: install it with pip.")
    return min(found, key=lambda path: len(path.parts)).read_text(encoding="utf-8")


_TEXTS = {
    "special names": lambda: _topic("specialnames"),
    "difflib.py": lambda: _source("difflib"),
    "compound statements": lambda: _topic("compound"),
    "statistics.py": lambda: _source("statistics"),
    "licences of numpy": lambda: _licence("numpy"),
}
