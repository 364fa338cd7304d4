"""`PartFile`: what a long measurement has found so far, kept beside its result, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cost_model.whole_file import write_whole

_EVERY = 2.0
"""Seconds between two writes: a file of some 100 kB, replaced in one rename."""


def part_of(out: Path) -> Path:
    """Where the rows of an unfinished `out` are."""
    return out.with_name(f"{out.name}.part")


class PartFile:
    """Rows by name, in `<out>.part`. They are taken up again if `stamp` (machine, versions, design) is the one they were found with."""

    def __init__(self, out: Path, stamp: Mapping[str, Any]) -> None:
        self.path = part_of(out)
        self.stamp = dict(stamp)
        self.rows: dict[str, Any] = self._read()
        self._written = time.monotonic()

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        same = isinstance(data, dict) and data.get("stamp") == self.stamp and isinstance(data.get("rows"), dict)
        return data["rows"] if same else {}

    def put(self, name: str, row: Any) -> None:
        """Keep a row; it reaches the disk within seconds."""
        self.rows[name] = row
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self) -> None:
        """Put all rows on the disk. Raises InputError where that cannot be."""
        write_whole(self.path, json.dumps({"stamp": self.stamp, "rows": self.rows}))
        self._written = time.monotonic()

    def remove(self) -> None:
        """The result is written; what led to it is not needed any more."""
        self.path.unlink(missing_ok=True)
