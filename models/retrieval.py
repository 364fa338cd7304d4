"""A retrieval metric that needs no data but Python: find the description of a standard-library function by its signature."""

from collections.abc import Callable
from functools import cache

import numpy as np

from .standard_library import documented, first_line, stable_order

COUNT = 500


@cache
def pairs() -> tuple[tuple[str, str], ...]:
    """500 pairs (signature, first line of its docstring) of the running Python, no signature, name or line twice.

    The lines have 4 to 40 words and do not begin with the function's own name. Raises RuntimeError when the standard library
    has too few, which means that its source files are not there.
    """
    names: set[str] = set()
    lines: set[str] = set()
    kept = []
    for kind, signature, docstring in sorted(documented(), key=lambda item: stable_order(item[1] + item[2])):
        name, line = signature.partition("(")[0], first_line(docstring)
        fits = kind == "function" and 4 <= len(line.split()) <= 40 and not line.startswith(name)
        if fits and name not in names and line not in lines:
            names.add(name)
            lines.add(line)
            kept.append((signature, line))
    if len(kept) < COUNT:
        raise RuntimeError(
            f"The standard library of this Python has {len(kept)} documented functions with source, and the retrieval metric "
            f"needs {COUNT}: use a Python that was installed with its .py files."
        )
    return tuple(kept[:COUNT])


def recall_at_one(embed: Callable[[list[str]], np.ndarray]) -> float:
    """Share of the 500 signatures whose nearest description, by dot product of `embed`'s unit vectors [T, D], is their own.

    all-MiniLM-L6-v2 in fp32 reaches 0.510 on Python 3.11; the standard error of one figure is 2 points.
    """
    signatures, lines = zip(*pairs(), strict=True)
    scores = embed(list(signatures)) @ embed(list(lines)).T
    return float((scores.argmax(1) == np.arange(COUNT)).mean())
