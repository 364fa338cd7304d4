"""`with_caches`: a processor's profile with the sizes of this machine's caches."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..cost_model.device import Coefficient, Device

CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def with_caches(device: Device, folder: Path = CPUS, cpus: Collection[int] | None = None) -> Device:
    """`device` with the second level and the last one of the caches behind `cpus` (None: those that this process may use), as the operating
    system reports them below `folder`; unchanged where it reports no second level.

    Each cache counts once, whichever processors share it: those of one core's two threads, of a cluster, or of the chip.
    """
    found: dict[int, dict[str, float]] = {}
    for cpu in sorted(_at_hand() if cpus is None else cpus):
        for cache in (folder / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                level, kind = int((cache / "level").read_text()), (cache / "type").read_text().strip()
                size, shared = (cache / "size").read_text().strip(), (cache / "shared_cpu_list").read_text().strip()
            except (OSError, ValueError):
                continue
            if kind != "Instruction" and re.fullmatch(r"\d+[KMG]", size):
                found.setdefault(level, {})[shared] = float(size[:-1]) * _UNITS[size[-1]]
    if 2 not in found:
        return device
    sizes = {level: sum(caches.values()) for level, caches in found.items()}
    source = "The operating system reports it for this machine."
    read = {"capacity.near": sizes[2], "capacity.cache": max(sizes.values())}
    table = {key: Coefficient(size, "B", size, size, "datasheet", source) for key, size in read.items()}
    return replace(device, coefficients={**device.coefficients, **table})


def _at_hand() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
