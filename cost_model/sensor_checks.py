"""Two questions to ask of a counter before it is trusted: how often it ticks, and whether it integrates all of the time.

Some cards look at 25 of each 100 ms. Steady work does not notice; work that repeats with the tick does. A square wave of work and rest
with the counter's own period, begun at eight phases, tells: the mean power is the same at every phase, or swings between the two.
"""

from __future__ import annotations

import statistics
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from .clock import Clock, WallClock
from .counter import Counter
from .counter_edges import POLL_SECONDS, EdgeWatch
from .energy_window import PHASES, aligned_window
from .repeated_load import Load

WINDOWED = 0.5
FULL = 0.1


@dataclass(frozen=True)
class TickHistogram:
    """`periods` between ticks [s] in order of time, and their median, `period` [s]; the counter's smallest `step` [J], and the median
    time of a read, `read_seconds` [s]."""

    periods: tuple[float, ...]
    period: float
    step: float
    read_seconds: float

    def milliseconds(self) -> dict[int, int]:
        """How many periods were of each whole number of milliseconds, in rising order."""
        return dict(sorted(Tally(round(period * 1e3) for period in self.periods).items()))


def tick_histogram(
    counter: Counter,
    clock: Clock | None = None,
    run: Callable[[], object] | None = None,
    synchronise: Callable[[], object] | None = None,
    *,
    seconds: float = 3.0,
) -> TickHistogram:
    """The ticks of `counter` over `seconds` [s] of `run`, or of rest without one; `synchronise` as for `Meter.energies`.

    Raises CounterFault for a counter that cannot be read or ticks less than three times.
    """
    clock = clock or WallClock()
    watch = EdgeWatch(counter, clock)
    load = Load(run or (lambda: clock.sleep(POLL_SECONDS)), clock, synchronise)
    with clock.watch(watch.poll, POLL_SECONDS):
        load.start(seconds)
    watch.check(least_edges=3)
    pairs = list(pairwise(watch.edges))
    periods = tuple(later.at - earlier.at for earlier, later in pairs)
    return TickHistogram(
        periods,
        statistics.median(periods),
        min(later.joules - earlier.joules for earlier, later in pairs),
        statistics.median(watch.read_seconds),
    )


@dataclass(frozen=True)
class SquareWave:
    """Mean power by the counter [W]: of a half-and-half wave of `period` [s] begun at each of eight `phases` of the tick, of steady work
    (`busy`) and of rest (`rest`)."""

    period: float
    phases: tuple[float, ...]
    busy: float
    rest: float

    @property
    def ratio(self) -> float:
        """The largest over the smallest mean power of a phase: 1 for a counter that integrates all of the time."""
        return max(self.phases) / min(self.phases)

    @property
    def contrast(self) -> float:
        """How far the phases lie apart, as a share of the step from rest to work: 0 for full integration, 1 for looks shorter than half a
        period."""
        return (max(self.phases) - min(self.phases)) / (self.busy - self.rest)

    @property
    def verdict(self) -> str:
        """ "full", "windowed" or, between the two, "unclear"."""
        return "windowed" if self.contrast > WINDOWED else "full" if self.contrast < FULL else "unclear"


def square_wave(
    counter: Counter,
    clock: Clock | None,
    run: Callable[[], object],
    synchronise: Callable[[], object] | None = None,
    *,
    period: float | None = None,
    seconds: float = 2.0,
    settle_seconds: float = 0.5,
) -> SquareWave:
    """The wave at eight phases, each for `seconds` [s], with the `period` [s] of the counter's ticks unless one is given.

    `run` is one short piece of work, a millisecond or so: half a period is filled with it. Raises CounterFault for a counter that cannot
    be read, ValueError where work draws no more than rest.
    """
    clock = clock or WallClock()
    busy = Load(run, clock, synchronise)
    nap = Load(lambda: clock.sleep(POLL_SECONDS), clock)
    wave_period = period or tick_histogram(counter, clock).period
    rest = aligned_window(counter, clock, nap, seconds, settle_seconds).watts
    steady = aligned_window(counter, clock, busy, seconds, settle_seconds).watts
    if steady <= rest:
        raise ValueError(f"work must draw more than rest, got {steady:.4g} W and {rest:.4g} W")
    phases = []
    for phase in range(PHASES):
        wave = Load(_Wave(busy, clock, wave_period).cycle, clock)
        start_after = wave_period * phase / PHASES
        phases.append(aligned_window(counter, clock, wave, seconds, settle_seconds, start_after).watts)
    return SquareWave(wave_period, tuple(phases), steady, rest)


class _Wave:
    """Work for the first half of each period and rest for the second, on a fixed timetable, so that late ends do not add up."""

    def __init__(self, busy: Load, clock: Clock, period: float) -> None:
        self._busy, self._clock, self._period = busy, clock, period
        self._due: float | None = None

    def cycle(self) -> None:
        due = self._clock.now() if self._due is None else self._due
        self._busy.start(due + self._period / 2.0 - self._clock.now())
        self._due = due + self._period
        self._clock.sleep(self._due - self._clock.now())
