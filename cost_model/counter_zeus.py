"""Counters through zeus's device layer: cards (NVML, AMD SMI), processors behind its daemon, and systems on a chip (Jetson, Apple).

zeus is the extra `meter`. Only its getters are called; what it leaves open (edges, intervals, refusals) is done on top of it here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .clock import Clock, WallClock
from .counter import CounterFault, Sensors, Unwrapped
from .counter_rapl import domain_name
from .nvml_sensors import nvml_sensors, read_or_none

_APPLE_PARTS = ("cpu_total_mj", "gpu_mj", "dram_mj", "ane_mj")
"""Parts of an Apple chip that do not overlap. Whether the SRAM of its graphics unit does is not documented: it is left out."""


class ZeusCard:
    """The energy counter and sensors of one zeus `gpu`. On a Grace Hopper module zeus reads the module, its processor included."""

    def __init__(self, gpu: Any, index: int, clock: Clock) -> None:
        self._gpu, self._name = gpu, read_or_none(gpu.get_name) or "unknown"
        module = "the module of " if any(chip in self._name for chip in ("GH200", "GB200")) else ""
        self.where = f"{module}card {index} ({self._name}) through zeus"
        self._joules = Unwrapped(lambda: gpu.get_total_energy_consumption() / 1e3, None, clock.now)

    def joules(self) -> float:
        """Joules since the first read [J]. Raises CounterFault."""
        with _zeus_faults():
            return self._joules()

    def watts(self) -> float | None:
        """Power of this instant [W]: of the last 25 ms on some cards. None where there is no such sensor."""
        milliwatts = read_or_none(self._gpu.get_instant_power_usage)
        return None if milliwatts is None else milliwatts / 1e3

    def sensors(self) -> Sensors:
        """Temperature and limit as zeus has them for every maker; clocks, throttle reasons, MIG and processes of NVIDIA cards from NVML."""
        limit = read_or_none(self._gpu.get_power_management_limit)
        return Sensors(
            temperature=read_or_none(self._gpu.get_gpu_temperature),
            power_limit=None if limit is None else limit / 1e3,
            device=self._name,
            **nvml_sensors(self._gpu, os.getpid()),
        )


class ZeusSum:
    """The sum of what `read` gives, cumulative millijoules [mJ] of parts that do not overlap. zeus has already corrected their wraps."""

    def __init__(self, where: str, read: Callable[[], float], clock: Clock) -> None:
        self.where = f"{where} through zeus"
        self._joules = Unwrapped(lambda: read() / 1e3, None, clock.now)

    def joules(self) -> float:
        """Joules since the first read [J]. Raises CounterFault."""
        with _zeus_faults():
            return self._joules()

    def watts(self) -> None:
        """None: zeus samples no power of these."""

    def sensors(self) -> Sensors:
        """The name alone."""
        return Sensors(device=self.where)


def open_zeus_card(index: int, clock: Clock | None = None) -> ZeusCard:
    """The counter of card `index`, in zeus's order: that of the bus, of visible cards only. Raises CounterFault where there is none."""
    with _zeus_faults("zeus finds no card"):
        gpus = _device_layer().get_gpus()
        if index >= len(gpus.gpus):
            raise CounterFault(f"zeus finds no card {index}, only {len(gpus.gpus)}")
        return ZeusCard(gpus.gpus[index], index, clock or WallClock())


def open_zeus_processor(clock: Clock | None = None) -> ZeusSum:
    """The packages of all sockets and their dram, as zeus's daemon reads them for users who may not. Raises CounterFault for none.

    zeus lists psys among the processors; it holds the packages, so it is left out by its name.
    """
    with _zeus_faults("zeus finds no readable counter of the processor"):
        cpus = _device_layer().get_cpus()
        folder = Path(getattr(cpus, "rapl_dir", ""))
        packages = [cpu for cpu in cpus.cpus if domain_name(folder / f"intel-rapl:{cpu.cpu_index}").startswith("package")]
        if not packages:
            raise CounterFault("zeus finds no package domain")

        def read() -> float:
            parts = [cpu.get_total_energy_consumption() for cpu in packages]
            return sum(part.cpu_mj + (part.dram_mj or 0.0) for part in parts)

        return ZeusSum("the processor's packages and memory", read, clock or WallClock())


def open_zeus_soc(clock: Clock | None = None) -> ZeusSum:
    """The whole of a Jetson or an Apple chip. Raises CounterFault where there is none."""
    with _zeus_faults("zeus finds no system on a chip"):
        soc = _device_layer().get_soc()

        def read() -> float:
            found = vars(soc.get_total_energy_consumption())
            if found.get("total_energy_mj") is not None:
                return found["total_energy_mj"]
            names = _APPLE_PARTS if "cpu_total_mj" in found else ("cpu_energy_mj", "gpu_energy_mj")
            return sum(found[name] or 0.0 for name in names)

        return ZeusSum("the system on a chip", read, clock or WallClock())


def _device_layer() -> Any:
    try:
        import zeus.device
    except ImportError as fault:
        raise CounterFault("zeus is not installed (pip install 'szilard[meter]')") from fault
    return zeus.device


@contextmanager
def _zeus_faults(context: str = "") -> Iterator[None]:
    """Turns whatever zeus and the libraries below it raise into a CounterFault: a driver that is broken raises anything."""
    try:
        yield
    except CounterFault:
        raise
    except Exception as fault:
        kind = type(fault).__name__
        text = (str(fault) or kind).splitlines()[0].rstrip(".")
        if context:
            raise CounterFault(f"{context} ({text})") from fault
        if "NoPermission" in kind:
            raise CounterFault(f"may not be read by this user ({text}); ask an administrator for the right to") from fault
        if "NotSupported" in kind:
            raise CounterFault(f"is not supported by this device or its driver ({text})") from fault
        raise CounterFault(f"cannot be read ({text})") from fault
