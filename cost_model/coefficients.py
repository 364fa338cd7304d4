"""What each coefficient of a device profile means, in words, and how many of each provenance a profile holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .device import PROVENANCES, Coefficient, Device

FAMILIES: Mapping[str, str] = {
    "flop": "Energy of arithmetic: one operation of that dtype (a multiply-add is two), with what moves between a core's memory and its "
    'registers, beyond static power. ".tensor": on matrix units.',
    "byte": "Energy of moving one byte, beyond static power. byte.cache: between the last cache and a core, paid by every operand, also by "
    "one that comes from memory. byte.memory: past the last cache, on top of byte.cache.",
    "link": "Energy of one byte to or from another device.",
    "launch": "Energy of starting one kernel, beyond static power.",
    "static": "Power that is drawn with clocks up, whatever runs: it is paid for every second.",
    "power_limit": "Power at which the device slows itself down: modelled seconds stretch until their joules fit below it.",
    "rate": "Peak arithmetic of all cores together.",
    "bandwidth": "Traffic of all cores together: past the last cache (memory), between it and the cores (cache), to other devices (link).",
    "capacity": "Bytes that a level holds: the memory of the device, the last cache of all cores, and the own memory of ONE core (its "
    "first-level cache, or the shared memory of a multiprocessor), which bounds the tiles that it works on. Registers of one core and all "
    "that the chip holds lower the floors, and nothing else.",
    "launch_seconds": "Time between the starts of two kernels that have nothing to do.",
    "utilisation": "Share of the peak rate that kernels of a kind reach.",
    "time": "Seconds of one unit of the work of a kernel of a runtime, fitted on this machine; with them, seconds need no roofline.",
}
"""One explanation for the first part of a key, in the order in which profiles are shown."""


def by_family(coefficients: Mapping[str, Coefficient]) -> dict[str, dict[str, Coefficient]]:
    """Coefficients by the first part of their key: families in the order of `FAMILIES` and others behind, keys sorted."""
    found: dict[str, dict[str, Coefficient]] = {family: {} for family in FAMILIES}
    for key, coefficient in sorted(coefficients.items()):
        found.setdefault(key.partition(".")[0], {})[key] = coefficient
    return {family: members for family, members in found.items() if members}


def provenance_counts(device: Device) -> dict[str, int]:
    """How many coefficients of a profile have each provenance, in the order of `PROVENANCES`; those that do not occur are left out."""
    counted = Counter(coefficient.provenance for coefficient in device.coefficients.values())
    return {name: counted[name] for name in PROVENANCES if counted[name]}
