"""What zeus does not read of an NVIDIA card: clocks, throttle reasons, MIG mode, driver, and who else works on it. Getters only."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

THROTTLE_REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
    0x100: "display clocks",
}
"""Bits of nvmlClocksEventReasons (nvml.h)."""


def nvml_sensors(gpu: Any, own: int) -> dict[str, Any]:
    """Fields of `Sensors` for a zeus `gpu` with an NVML handle, seen from the process `own`; {} for a card of another maker."""
    handle = getattr(gpu, "handle", None)
    if handle is None or not type(gpu).__name__.endswith("NVIDIAGPU"):
        return {}
    import pynvml

    found = {
        "clock": read_or_none(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "throttle": throttle_names(read_or_none(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0),
        "driver": _text(read_or_none(lambda: pynvml.nvmlSystemGetDriverVersion())),
        "mig": bool((read_or_none(lambda: pynvml.nvmlDeviceGetMigMode(handle)) or (0, 0))[0]),
    }
    processes = read_or_none(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return {**found, "others": others([process.pid for process in processes], own)}


def throttle_names(bits: int) -> tuple[str, ...]:
    """The names of set bits. Bits that NVML may add later are named by their number."""
    known = sum(THROTTLE_REASONS)
    names = [name for bit, name in THROTTLE_REASONS.items() if bits & bit]
    return tuple(names + ([f"reason {bits & ~known:#x}"] if bits & ~known else []))


def others(
    ids: list[int], own: int, exists: Callable[[int], bool] = lambda pid: os.path.exists(f"/proc/{pid}")
) -> tuple[int, ...]:
    """The processes of `ids` that are not `own`.

    In a container NVML may give the numbers of the host: there one number unknown in here is taken for this very process, if it is not
    listed under its own. It is one at most; any further is another's.
    """
    foreign = sorted({pid for pid in ids if pid != own})
    if own in ids:
        return tuple(foreign)
    unknown = next((pid for pid in foreign if not exists(pid)), None)
    return tuple(pid for pid in foreign if pid != unknown)


def read_or_none(read: Callable[[], Any]) -> Any:
    """What `read` gives, or None where the card, its driver or the user's rights do not allow it."""
    try:
        return read()
    except Exception:  # NVML, AMD SMI and zeus raise kinds of their own, all of which mean that this sensor is not there
        return None


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else found or ""
