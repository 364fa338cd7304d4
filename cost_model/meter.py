"""`Meter`: one interface to whatever energy counter the machine has, and a sentence that says why where it has none.

A counter sees the whole package or card, other tenants included: measured joules are those of the machine while the work ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
SETTLE_SECONDS = 0.03
"""RAPL counters tick about every millisecond; one that stands still for this long is not connected."""

Stop = Callable[[], float]


@dataclass(frozen=True)
class Meter:
    """`status` is "measured" or "unavailable"; `reason` says in one sentence which counter is read, or what is missing and what to
    do. `start` begins a window and returns what ends it and gives its joules; None if unavailable."""

    status: str
    reason: str
    start: Callable[[], Stop] | None = None

    def joules_per_call(self, run: Callable[[], object], min_seconds: float = 2.0) -> float | None:
        """Joules of one call of `run` [J], the mean over a window of at least `min_seconds`; None where no counter is read.

        Two seconds keep the error of a counter that ticks every 100 ms (NVML on data-centre cards) below about five percent.
        """
        if self.start is None:
            return None
        run()
        stop = self.start()
        began, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - began < min_seconds:
            run()
            calls += 1
        return stop() / calls


def open_meter(kind: str = "cpu", powercap: Path = POWERCAP) -> Meter:
    """The meter for work on a "cpu" or "cuda" device: zeus where it is installed and finds a counter, else RAPL under `powercap`."""
    found, reason = _open_zeus(kind)
    if found is not None:
        return found
    if kind == "cuda":
        return Meter("unavailable", f"No energy counter: {reason}, so joules are modelled.")
    return _open_rapl(powercap, reason)


def _open_zeus(kind: str) -> tuple[Meter | None, str]:
    """A meter on zeus, or None and a clause that says what is missing."""
    try:
        from zeus.device.exception import ZeusBaseError
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return None, "zeus is not installed (pip install 'szilard[meter]')"
    try:
        # Only the counters of the device that works: a card that idles beside a busy CPU would be billed to it.
        monitor = ZeusMonitor(gpu_indices=[0], cpu_indices=[]) if kind == "cuda" else ZeusMonitor(gpu_indices=[])
        if kind != "cuda" and not monitor.cpu_indices:
            return None, "zeus finds no readable CPU energy counter"
        monitor.begin_window("szilard probe", sync_execution=False)
        monitor.end_window("szilard probe", sync_execution=False)
    except (ZeusBaseError, RuntimeError, OSError, ValueError, IndexError) as fault:
        return None, f"zeus cannot read a {kind} energy counter ({fault})"

    def start() -> Stop:
        monitor.begin_window("szilard", restart=True)

        def stop() -> float:
            window = monitor.end_window("szilard")
            parts = [window.gpu_energy, window.cpu_energy or {}, window.dram_energy or {}]
            return float(sum(sum(part.values()) for part in parts))

        return stop

    where = "card 0" if kind == "cuda" else "CPU packages"
    return Meter("measured", f"Joules are read through zeus from the counters of the {where}.", start), ""


def _open_rapl(powercap: Path, before: str) -> Meter:
    """A meter on the package and DRAM domains of RAPL; psys and cores overlap with packages, so they are never added."""
    if not powercap.is_dir():
        return Meter(
            "unavailable",
            f"No energy counter: {powercap} is absent on this machine, as on most virtual ones, and {before}, so joules are modelled; "
            "run on bare metal to measure them.",
        )
    domains = [
        _Domain(folder) for folder in sorted(powercap.glob("intel-rapl:*")) if _name(folder).startswith(("package", "dram"))
    ]
    if not domains:
        return Meter(
            "unavailable", f"No energy counter: {powercap} lists no package domain and {before}, so joules are modelled."
        )
    try:
        first = [domain.read() for domain in domains]
        time.sleep(SETTLE_SECONDS)
        moved = [domain.read() for domain in domains] != first
    except OSError:
        return Meter(
            "unavailable",
            f"No energy counter: {powercap}/*/energy_uj is not readable by this user, so joules are modelled; "
            "run as root, or let an administrator grant read permission on those files.",
        )
    if not moved:
        return Meter("unavailable", f"No energy counter: those under {powercap} stand still, so joules are modelled.")
    names = ", ".join(f"{domain.folder.name} ({_name(domain.folder)})" for domain in domains)
    return Meter("measured", f"Joules are read from RAPL: {names}.", lambda: _window(domains))


@dataclass(frozen=True)
class _Domain:
    folder: Path

    def read(self) -> int:
        return int((self.folder / "energy_uj").read_text())

    def span(self) -> int:
        return int((self.folder / "max_energy_range_uj").read_text())


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _window(domains: Sequence[_Domain]) -> Stop:
    begun = [domain.read() for domain in domains]

    def stop() -> float:
        # The counter starts again at zero after `span`; a window of some seconds cannot pass it twice (262 kJ last minutes).
        deltas = [(domain.read() - start, domain) for start, domain in zip(begun, domains, strict=True)]
        return sum(delta if delta >= 0 else delta + domain.span() for delta, domain in deltas) / 1e6

    return stop
