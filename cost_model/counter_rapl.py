"""RAPL through /sys/class/powercap: the packages and the memory beside them.

The domains overlap: psys holds packages, a package holds its cores and its graphics unit, and some chips show dram inside psys too. Only
packages and dram are added, never psys or core. On many parts dram is modelled by the chip, fine under load and poor at idle (Desrochers
et al., MEMSYS 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .clock import Clock, WallClock
from .counter import CounterFault, Sensors, Unwrapped

POWERCAP = Path("/sys/class/powercap")
SETTLE_SECONDS = 0.03
"""RAPL counters tick about every millisecond; one that stands still for this long is not connected."""


class RaplCounter:
    """The sum of RAPL `domains`, each a folder with `energy_uj` and `max_energy_range_uj` [uJ], after which it starts again at zero."""

    def __init__(self, domains: Sequence[Path], clock: Clock) -> None:
        self._parts = [
            Unwrapped(partial(_joules, path / "energy_uj"), _joules(path / "max_energy_range_uj"), clock.now)
            for path in domains
        ]
        self.where = "RAPL: " + ", ".join(f"{path.name} ({domain_name(path)})" for path in domains)

    def joules(self) -> float:
        """Joules since the first read [J]. Raises CounterFault."""
        try:
            return sum(part() for part in self._parts)
        except OSError as fault:
            raise CounterFault(f"can no longer be read ({fault})") from fault

    def watts(self) -> None:
        """None: RAPL samples no power."""

    def sensors(self) -> Sensors:
        """The name of the processor's counters; RAPL says nothing else."""
        return Sensors(device=self.where)


def open_rapl(powercap: Path = POWERCAP, clock: Clock | None = None) -> RaplCounter:
    """The counter on every package and dram domain of `powercap`. Raises CounterFault with a clause where there is none that moves."""
    clock = clock or WallClock()
    if not powercap.is_dir():
        raise CounterFault(f"{powercap} is absent on this machine, as on most virtual ones (bare metal has it)")
    domains = [path for path in sorted(powercap.glob("intel-rapl:*")) if domain_name(path).startswith(("package", "dram"))]
    if not domains:
        raise CounterFault(f"{powercap} lists no package domain")
    try:
        counter = RaplCounter(domains, clock)
        first = [_joules(path / "energy_uj") for path in domains]
        clock.sleep(SETTLE_SECONDS)
        moved = [_joules(path / "energy_uj") for path in domains] != first
    except (OSError, ValueError) as fault:
        raise CounterFault(
            f"{powercap}/*/energy_uj is not readable by this user (run as root, or let an administrator grant read permission on "
            "those files)"
        ) from fault
    if not moved:
        raise CounterFault(f"the counters under {powercap} stand still")
    return counter


def domain_name(path: Path) -> str:
    """What a domain counts, as it says itself: "package-0", "dram", "psys"; "" where it does not say."""
    try:
        return (path / "name").read_text().strip()
    except OSError:
        return ""


def _joules(path: Path) -> float:
    return int(path.read_text()) / 1e6
