"""JSON as Szilard prints and stores it: strict, stable, and free of numpy types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """The same data as dicts, lists, strings and finite numbers; a number that is not finite becomes None, since strict
    JSON has no word for it. Raises TypeError naming the type of anything else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def json_text(data: Any, indent: int | None = 1) -> str:
    """One JSON document that ends in a newline; keys keep their order."""
    return json.dumps(plain(data), indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
