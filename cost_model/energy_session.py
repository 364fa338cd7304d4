"""A session of measuring: several loads in ABBA order on one counter, until every interval is narrow or the time is up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .clock import Clock
from .counter import Counter, Sensors
from .counter_edges import tick_period
from .energy_reading import (
    LEAST_WINDOWS,
    EnergyLog,
    EnergyReading,
    look_confidence,
    mean_interval,
    next_look,
    with_sensor_error,
)
from .energy_window import PHASES, Window, aliased, aligned_window, phased_window
from .refusals import insist
from .repeated_load import Load

DISAGREE = 0.03
"""By how much counter and sampled power may differ before it is flagged."""
_REPEATS = 32


@dataclass(frozen=True)
class Effort:
    """How well to measure: until the interval's half-width is below `half_width` of the joules, in windows of at least `least_seconds` [s]
    and 32 calls, for at most about `most_seconds` [s] for each load, after `warm_seconds` [s] of work, and `settle_seconds` [s] before
    each window. Five windows are taken in any case.

    `sensor_error` widens intervals by what the sensor itself may be wrong. `idle_watts` [W] sets the static joules apart.
    """

    half_width: float = 0.01
    least_seconds: float = 5.0
    most_seconds: float = 60.0
    warm_seconds: float = 3.0
    settle_seconds: float = 1.0
    sensor_error: float = 0.0
    idle_watts: float | None = None


@dataclass
class _Track:
    """What is known of one load so far. `period` is the seconds of one call, `seconds` those of a window [s]; `phased` ones are made of
    eight, against aliasing."""

    load: Load
    period: float
    seconds: float
    phased: bool
    before: Sensors
    after: Sensors
    windows: list[Window]


def measure_energies(
    counter: Counter,
    clock: Clock,
    runs: Mapping[str, Callable[[], object]],
    effort: Effort,
    synchronise: Callable[[], object] | None,
    label: str,
    reason: str,
) -> dict[str, EnergyReading]:
    """A reading of each of `runs`, windows taken in turn and in reverse in every other round, so that drift favours none.

    Raises CounterFault for a counter that cannot be believed, and whatever a run raises. Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("there is nothing to measure")
    insist(counter.sensors())
    tracks, tick = {}, 0.0
    for name, run in runs.items():
        load = Load(run, clock, synchronise)
        period = load.warm(effort.warm_seconds)
        tick = tick or tick_period(counter, clock, load.step)
        sensors = insist(counter.sensors())
        # Long calls are repeated 32 times only as far as five windows still fit into the time.
        seconds = max(effort.least_seconds, min(_REPEATS * period, effort.most_seconds / (LEAST_WINDOWS + 1)))
        tracks[name] = _Track(load, period, seconds, aliased(period, tick, seconds), sensors, sensors, [])
    began, rounds, look, due = clock.now(), 0, 0, LEAST_WINDOWS
    while True:
        for name in list(tracks) if rounds % 2 == 0 else list(tracks)[::-1]:
            _take(counter, clock, tracks[name], tick, effort.settle_seconds)
        rounds += 1
        late = rounds >= LEAST_WINDOWS and clock.now() - began >= effort.most_seconds * len(tracks)
        if rounds < due and not late:
            continue
        confidence = look_confidence(look)
        if late or all(_half_width(track, confidence) <= effort.half_width for track in tracks.values()):
            return {name: _reading(track, confidence, tick, effort, label, reason) for name, track in tracks.items()}
        look, due = look + 1, next_look(rounds)


def static_joules(idle_watts: float | None, seconds: float) -> float | None:
    """The joules [J] of a device that is idle but awake, at `idle_watts` [W], for `seconds` [s]; None where its power is not known."""
    return None if idle_watts is None else idle_watts * seconds


def _take(counter: Counter, clock: Clock, track: _Track, tick: float, settle: float) -> None:
    """One more window of `track`."""
    if track.phased:
        window = phased_window(counter, clock, track.load, track.seconds, settle, tick, track.period)
    else:
        window = aligned_window(counter, clock, track.load, track.seconds, settle)
    track.windows.append(window)
    track.after = insist(counter.sensors())


def _half_width(track: _Track, confidence: float) -> float:
    mean, low, high = mean_interval([window.joules_per_call for window in track.windows], confidence)
    return (high - low) / 2.0 / mean


def _reading(track: _Track, confidence: float, tick: float, effort: Effort, label: str, reason: str) -> EnergyReading:
    windows = tuple(track.windows)
    mean, low, high = mean_interval([window.joules_per_call for window in windows], confidence)
    low, high = with_sensor_error(low, high, effort.sensor_error)
    seconds = statistics.fmean(window.seconds_per_call for window in windows)
    sampled = [window.sampled_watts / window.watts for window in windows if window.sampled_watts is not None]
    log = EnergyLog(
        before=track.before,
        after=track.after,
        stopped="precise" if _half_width(track, confidence) <= effort.half_width else "time limit",
        tick=tick,
        phases=PHASES if track.phased else 1,
        edge_seconds=max(window.edge_seconds for window in windows),
        cross_check=statistics.fmean(sampled) if sampled else None,
    )
    return EnergyReading(
        label=label,
        reason=reason,
        joules=mean,
        low=low,
        high=high,
        seconds=seconds,
        static_joules=static_joules(effort.idle_watts, seconds),
        windows=windows,
        log=replace(log, flags=_flags(track.load, log, windows, effort)),
    )


def _flags(load: Load, log: EnergyLog, windows: tuple[Window, ...], effort: Effort) -> tuple[str, ...]:
    found = []
    if not load.steady:
        found.append("The rate of calls did not become steady while the device was warmed.")
    if log.cross_check is not None and abs(log.cross_check - 1.0) > DISAGREE:
        found.append(f"Sampled power says {log.cross_check - 1.0:+.1%} beside the counter.")
    blur = log.edge_seconds / min(window.seconds for window in windows)
    if blur > effort.half_width:
        found.append(f"The edges of a window are known to {log.edge_seconds * 1e3:.3g} ms only, {blur:.1%} of it.")
    if log.stopped == "time limit":
        found.append(f"The time limit came before the interval was below {effort.half_width:.1%}.")
    return tuple(found)
