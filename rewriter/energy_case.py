"""`EnergyCase`: what a card is measured at; `measure_cases`: seconds and joules of many, taken up again where a run stopped."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

from ..cost_model.cost import Cost
from ..cost_model.device import Device
from ..cost_model.energy_reading import EnergyReading, mean_interval
from ..cost_model.energy_session import Effort
from ..cost_model.errors import InputError
from ..cost_model.fit import Estimate
from ..cost_model.measurement import Measurement, throttle_text, work_of
from ..cost_model.meter import Meter
from ..cost_model.net import Net
from ..cost_model.price import price_net
from ..cost_model.repeated_load import Load
from .fault_text import fault_text
from .part_file import PartFile

AT_ONCE = 4
"""Cases that are measured in turn in one session: what they hold must fit the card together, and an interrupted session is lost."""
_SLICES, _SLICE_SECONDS = 7, 0.1

Run = Callable[[], object]


@dataclass(frozen=True, eq=False)
class EnergyCase:
    """One call does what `view` shows, `repeats` times, and then waits for `pause` seconds [s]. `build` makes it on a device ("cuda:0"):
    a function that does it once, on random operands. Cases with one `group` are measured in turn, in one session. `zeros` marks the
    control whose operands are all zero, `again` a repeat that shows the noise. The other fields are those of its `Measurement`."""

    config: str
    family: str
    scope: str
    view: Callable[[], Net]
    build: Callable[[str], Run]
    repeats: int = 1
    pause: float = 0.0
    rewritten_from: str = ""
    group: str = ""
    zeros: bool = False
    again: bool = False

    @property
    def key(self) -> str:
        """What tells it from every other case: its config, and whether it is the repeat of an earlier one."""
        return f"{self.config}, again" if self.again else self.config

    @cached_property
    def net(self) -> Net:
        """What one repeat does."""
        return self.view()

    def cost(self, device: Device) -> Cost:
        """What one repeat costs by the roofline of `device`."""
        return price_net(self.net, device).total

    def work(self, device: Device) -> dict[str, float]:
        """The work of one call by coefficient key; how bytes part into levels depends on the caches of `device`."""
        return {key: amount * self.repeats for key, amount in work_of(self.cost(device)).items()}

    def predicted(self, device: Device) -> tuple[float, float]:
        """Seconds [s] and joules [J] of one call by the roofline of `device`."""
        cost = self.cost(device)
        return cost.seconds * self.repeats + self.pause, cost.joules * self.repeats + self.pause * device.value("static")


class Bench(Protocol):
    """A place where cases are measured: a card, or a simulated one."""

    @property
    def meter(self) -> Meter:
        """What reads its joules."""
        ...

    @property
    def device(self) -> str:
        """Its name."""
        ...

    @property
    def driver(self) -> str:
        """The version of its driver, "" if it is not known."""
        ...

    def open(self, case: EnergyCase) -> Run:
        """One call of `case`, ready to be repeated; its first calls are over. Raises whatever the card does not do."""
        ...

    def synchronise(self) -> None:
        """Waits for the calls that were made."""
        ...

    def release(self) -> None:
        """Gives back the memory of opened cases; none of them is called again."""
        ...


def measure_cases(
    cases: Sequence[EnergyCase],
    bench: Bench,
    profile: Device,
    part: PartFile,
    effort: Effort,
    progress: Callable[[int, str], None] = lambda done, config: None,
) -> tuple[tuple[Measurement, ...], dict[str, str]]:
    """A row for each case, with what `profile` predicts, and the cases that the card does not do, with the reason.

    Rows that `part` holds are not measured again; new ones go there after each session, also when one is interrupted. Without a counter
    the rows have seconds alone. `progress` is told how many are done and what comes next. Raises InputError where no case can be run, and
    at once where `part` cannot be written.
    """
    names = [case.key for case in cases]
    if len(set(names)) < len(names):
        raise ValueError("two cases have one name")
    refused: dict[str, str] = {}
    left = [case for case in cases if not _finished(part.rows.get(case.key), bench)]
    done = len(cases) - len(left)
    # A place that takes no file is told before anything is measured.
    part.write()
    try:
        for session in _sessions(left):
            progress(done, session[0].key)
            for key, row in _measured(session, bench, profile, effort, refused):
                part.rows[key] = asdict(row)
            part.write()
            done += len(session)
    finally:
        part.write()
        bench.release()
    rows = [Measurement(**part.rows[name]) for name in names if name in part.rows]
    if not rows:
        raise InputError(f"{bench.device} runs none of the cases; the first says: {next(iter(refused.values()), 'nothing')}.")
    return tuple(rows), refused


def _finished(row: Mapping[str, Any] | None, bench: Bench) -> bool:
    """A row that lost its joules, to heat say, is measured again where there is a counter."""
    return row is not None and (row["joules"] is not None or bench.meter.status == "unavailable")


def _sessions(cases: Iterable[EnergyCase]) -> Iterator[list[EnergyCase]]:
    """Up to `AT_ONCE` cases at a time; those of one group stay together."""
    groups: dict[str, list[EnergyCase]] = {}
    for case in cases:
        groups.setdefault(f"{case.group}, {case.again}" if case.group else case.key, []).append(case)
    session: list[EnergyCase] = []
    for group in groups.values():
        if session and len(session) + len(group) > AT_ONCE:
            yield session
            session = []
        session = session + group
    if session:
        yield session


def _measured(
    session: Sequence[EnergyCase], bench: Bench, profile: Device, effort: Effort, refused: dict[str, str]
) -> Iterator[tuple[str, Measurement]]:
    runs: dict[str, Run] = {}
    for case in session:
        try:
            runs[case.key] = bench.open(case)
        except Exception as fault:  # torch, Triton and the driver raise kinds of their own for what a card cannot do
            refused[case.key] = fault_text(fault)
    readings = bench.meter.energies(runs, synchronise=bench.synchronise, **asdict(effort)) if runs else {}
    for case in session:
        if case.key in readings:
            reading = readings[case.key]
            yield case.key, _row(case, reading, seconds_of(reading, runs[case.key], bench), bench, profile)
    bench.release()


def seconds_of(reading: EnergyReading, run: Run, bench: Bench) -> Estimate:
    """Seconds of one call: those of the windows, or, without a counter, of as many slices of time."""
    samples = [window.seconds_per_call for window in reading.windows]
    if not samples:
        clock = bench.meter.clock
        load = Load(run, clock, bench.synchronise)
        load.warm(_SLICE_SECONDS)
        for _ in range(_SLICES):
            began = clock.now()
            load.start(_SLICE_SECONDS)
            ended = clock.now()
            samples.append((ended - began) / load.calls_between(began, ended))
    mean, low, high = mean_interval(samples)
    return Estimate(mean, max(0.0, low), high)


def _row(case: EnergyCase, reading: EnergyReading, seconds: Estimate, bench: Bench, profile: Device) -> Measurement:
    before, after = reading.log.before, reading.log.after
    predicted = case.predicted(profile)
    temperatures = [sensors.temperature for sensors in (before, after) if sensors.temperature is not None]
    return Measurement(
        config=case.config,
        family=case.family,
        scope=case.scope,
        work=case.work(profile),
        seconds=seconds.value,
        seconds_low=seconds.low,
        seconds_high=seconds.high,
        joules=reading.joules,
        joules_low=reading.low,
        joules_high=reading.high,
        label=reading.label,
        predicted_seconds=predicted[0],
        predicted_joules=predicted[1],
        rewritten_from=case.rewritten_from,
        temperature=statistics.fmean(temperatures) if temperatures else None,
        clock=after.clock,
        power_limit=after.power_limit,
        throttle=throttle_text((*before.throttle, *after.throttle)),
        device=bench.device,
        driver=bench.driver,
        reason="; ".join((reading.reason, *reading.log.flags)),
    )


def part_stamp(bench: Bench, profile: Device, cases: Sequence[EnergyCase]) -> dict[str, Any]:
    """What rows of an earlier run must have in common with this one to be taken up: the card, the profile and all cases."""
    return {"device": bench.device, "driver": bench.driver, "profile": profile.digest, "cases": [case.key for case in cases]}
