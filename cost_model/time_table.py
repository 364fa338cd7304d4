"""`TimeTable`: seconds measured on this machine, kept in a file so that each distinct candidate is timed once.

A table belongs to a machine and its software: times under another fingerprint are kept, and never used here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs

FORMAT = 1
RUNTIMES = ("torch", "onnxruntime", "onnxruntime-gpu", "numpy")


def machine_fingerprint(threads: int | None = None) -> dict[str, str]:
    """What a time depends on besides the work: CPU model, cores this process may use, `threads` of the runtimes, and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"cpu": _cpu_model(), "cores": str(cores), "threads": str(threads or cores), "system": platform.system()}
    for name in RUNTIMES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    """Model name and stepping, since clouds sell different chips under one name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.replace("\t", "").split(":", 1) for line in text.splitlines() if ":" in line)
    wanted = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return " ".join(fields[key].strip() for key in wanted if key in fields) or platform.machine()


class TimeTable:
    """Seconds by candidate key. `path` is a JSON file, by default one in the user's cache folder; `notes` are sentences about what went
    wrong with it: a table that cannot be read or written costs time, never the run."""

    def __init__(self, path: Path | None = None, fingerprint: dict[str, str] | None = None) -> None:
        self.path = path or Path(platformdirs.user_cache_dir("szilard")) / "times.json"
        self.fingerprint = fingerprint or machine_fingerprint()
        self.notes: list[str] = []

    @cached_property
    def machine(self) -> str:
        """A short name of the fingerprint, the key of this machine in the file."""
        text = json.dumps(self.fingerprint, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _times(self) -> dict[str, float]:
        return self._read().get(self.machine, {}).get("seconds", {})

    def get(self, key: str) -> float | None:
        """Seconds measured for `key` on this machine, None if there are none."""
        return self._times.get(key)

    def put(self, key: str, seconds: float) -> None:
        """Keeps `seconds` for `key`. The file is replaced in one rename, with what other processes have added to it meanwhile.

        Raises ValueError for seconds that are not positive and finite.
        """
        if not 0 < seconds < float("inf"):
            raise ValueError(f"seconds of {key} must be positive and finite, got {seconds}")
        self._times[key] = seconds
        machines = self._read()
        mine = machines.setdefault(self.machine, {"fingerprint": self.fingerprint, "seconds": {}})
        self._times.update({k: v for k, v in mine["seconds"].items() if k not in self._times})
        mine["seconds"] = dict(self._times)
        self._write(machines)

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as fault:
            self._note(f"The timing table {self.path} cannot be read ({fault}); it is made anew.")
            return {}
        if not _well_formed(data):
            self._note(f"The timing table {self.path} does not have the expected fields; it is made anew.")
            return {}
        return data["machines"]

    def _write(self, machines: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".part")
        except OSError as fault:
            self._note(f"The timing table {self.path} cannot be written ({fault}); times are kept for this run only.")
            return
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "machines": machines}, file, indent=1)
            os.replace(name, self.path)
        except OSError as fault:
            Path(name).unlink(missing_ok=True)
            self._note(f"The timing table {self.path} cannot be written ({fault}); times are kept for this run only.")

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _well_formed(data: Any) -> bool:
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("machines"), dict):
        return False
    for machine in data["machines"].values():
        if not isinstance(machine, dict) or not isinstance(machine.get("seconds"), dict):
            return False
        if not all(isinstance(s, int | float) and not isinstance(s, bool) and s > 0 for s in machine["seconds"].values()):
            return False
    return True
