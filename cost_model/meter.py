"""`Meter`: one interface to whatever energy counter the machine has, and a sentence that says why where it has none.

A counter sees the whole package or card, other tenants included: measured joules are those of the machine while the work ran.
Clocks and power limits are read, never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .clock import Clock, WallClock
from .counter import Counter, CounterFault
from .counter_rapl import POWERCAP, open_rapl
from .counter_zeus import open_zeus_card, open_zeus_processor, open_zeus_soc
from .energy_reading import EnergyReading
from .energy_session import Effort, measure_energies
from .errors import InputError
from .refusals import opening_fault, unavailable

Run = Callable[[], object]


@dataclass(frozen=True)
class Meter:
    """`status` is "measured", "modelled" (a simulated counter), "replayed" (a recording) or "unavailable"; `reason` says in one sentence
    which counter is read, or what is missing and what to do. `counter` is None where there is nothing to read."""

    status: str
    reason: str
    counter: Counter | None = None
    clock: Clock = field(default_factory=WallClock)

    def energy(
        self,
        run: Run,
        *,
        name: str = "run",
        half_width: float = 0.01,
        least_seconds: float = 5.0,
        most_seconds: float = 60.0,
        warm_seconds: float = 3.0,
        settle_seconds: float = 1.0,
        synchronise: Run | None = None,
        idle_watts: float | None = None,
        sensor_error: float = 0.0,
    ) -> EnergyReading:
        """The joules of one call of `run`, with their interval. See `energies`; `name` is what a recording knows the load by."""
        return self.energies(
            {name: run},
            half_width=half_width,
            least_seconds=least_seconds,
            most_seconds=most_seconds,
            warm_seconds=warm_seconds,
            settle_seconds=settle_seconds,
            synchronise=synchronise,
            idle_watts=idle_watts,
            sensor_error=sensor_error,
        )[name]

    def energies(
        self,
        runs: Mapping[str, Run],
        *,
        half_width: float = 0.01,
        least_seconds: float = 5.0,
        most_seconds: float = 60.0,
        warm_seconds: float = 3.0,
        settle_seconds: float = 1.0,
        synchronise: Run | None = None,
        idle_watts: float | None = None,
        sensor_error: float = 0.0,
    ) -> dict[str, EnergyReading]:
        """The joules of one call of each of `runs`, all measured in turn on the warm device, in ABBA order.

        Every window lies between two ticks of the counter and lasts `least_seconds` [s] or more; at least five are taken, until the 95 %
        interval is within `half_width` of each mean, or about `most_seconds` [s] for each run are spent; the log says which.
        Each run is warmed for `warm_seconds` [s], and goes on for `settle_seconds` [s] before each window, since some sensors average
        over a second.
        `synchronise` waits for work that a run only queues (torch.cuda.synchronize, also for a replayed CUDA graph). `idle_watts` [W],
        the power of the idle device awake, sets the static joules apart. Intervals are about this sensor; with `sensor_error`, such as
        0.05, they hold the joules of a perfect one. Inputs of the runs should be random: zeros take some 40 % less.

        Never fails for a counter: where it is missing, split, shared, hot, frozen, reset or not permitted, every reading is labelled
        "unavailable", with the reason. What a run raises is not caught. Raises ValueError for no runs.
        """
        if self.counter is None:
            return {name: EnergyReading("unavailable", self.reason) for name in runs}
        effort = Effort(half_width, least_seconds, most_seconds, warm_seconds, settle_seconds, sensor_error, idle_watts)
        try:
            return measure_energies(self.counter, self.clock, runs, effort, synchronise, self.status, self.reason)
        except CounterFault as fault:
            reason = unavailable(self.counter.where, str(fault))
            return {name: EnergyReading("unavailable", reason) for name in runs}


def open_meter(kind: str = "cpu", powercap: Path = POWERCAP) -> Meter:
    """The meter for work on "cpu", or on a card: "cuda", or "cuda:1" for one of several, counted as zeus does, in the order of the bus.

    A processor's joules are read from RAPL under `powercap`, else through zeus; a card's through zeus (NVML, AMD SMI), without its host's.
    Systems on a chip
    (Jetson, Apple) have one counter, read through zeus for either. Raises InputError for another kind.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", kind):
        raise InputError(f'There is no meter for a device of kind {kind!r}; give "cpu", "cuda" or "cuda:1".')
    openers: list[Callable[[], Counter]] = [open_zeus_soc]
    if kind != "cpu":
        openers.insert(0, lambda: open_zeus_card(int(kind[5:] or 0)))
    else:
        openers[:0] = [lambda: open_rapl(powercap), open_zeus_processor]
    faults: list[str] = []
    for opener in openers:
        try:
            counter = opener()
        except CounterFault as fault:
            faults.append(str(fault))
            continue
        fault_text = opening_fault(counter)
        if fault_text is not None:
            return Meter("unavailable", unavailable(counter.where, fault_text))
        return Meter("measured", f"Joules are read from {counter.where}.", counter)
    return Meter("unavailable", f"No energy counter: {', and '.join(dict.fromkeys(faults[:-1]))}; joules are modelled.")
