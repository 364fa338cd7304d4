"""When a counter ticks: a poll that brackets each change of its value between two reads, and notices one that stands still.

A counter that ticks every 100 ms shows a value up to one tick old. Two reads at arbitrary times put a triangular error of up to one
tick on a window: 0.8 % rms of 5 s, 4 % of 1 s. Between the edges of two ticks the error is that of the poll, a hundred times less.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from .clock import Clock
from .counter import Counter, CounterFault

POLL_SECONDS = 0.001
FROZEN_SECONDS = 0.5
"""A counter that does not move for this long while the device works is not connected; the slowest known tick every 100 ms."""
_NARROW_POLLS = 4
_MOST_EDGES = 3


@dataclass(frozen=True)
class Edge:
    """A tick that fell between the times `before` and `after` [s] and left the counter at `joules` [J]."""

    before: float
    after: float
    joules: float

    @property
    def at(self) -> float:
        """The middle of the bracket [s]."""
        return (self.before + self.after) / 2.0

    @property
    def width(self) -> float:
        """The length of the bracket [s]."""
        return self.after - self.before


class EdgeWatch:
    """Polls `counter`. `edges` are the ticks seen, `watts` the power samples, if they are asked for, `read_seconds` what reads took."""

    def __init__(self, counter: Counter, clock: Clock, power: bool = False) -> None:
        self._counter, self._clock, self._power = counter, clock, power
        self.edges: list[Edge] = []
        self.watts: list[float] = []
        self.read_seconds: list[float] = []
        self._last: tuple[float, float] | None = None
        self._moved = 0.0
        self._fault: Exception | None = None

    def poll(self) -> None:
        """Reads once. A fault is kept for `check`, since nobody could catch it in a thread; after one, nothing is read any more."""
        if self._fault is None:
            try:
                self._poll()
            except Exception as fault:
                self._fault = fault

    def check(self, least_edges: int = 0) -> None:
        """Raises what went wrong in a poll: CounterFault, also for a counter that stands still or ticked less than `least_edges` times."""
        if self._fault is not None:
            raise self._fault
        if len(self.edges) < least_edges:
            raise CounterFault(f"ticked {len(self.edges)} times only while it was watched")

    def chosen(self) -> Edge | None:
        """The first edge in a narrow bracket, or the narrowest of three where polls come late; None as long as there is neither."""
        for edge in self.edges:
            if edge.width <= _NARROW_POLLS * POLL_SECONDS:
                return edge
        return min(self.edges, key=lambda edge: edge.width) if len(self.edges) >= _MOST_EDGES else None

    def _poll(self) -> None:
        before = self._clock.now()
        joules = self._counter.joules()
        after = self._clock.now()
        self.read_seconds.append(after - before)
        if self._last is None or joules != self._last[1]:
            if self._last is not None:
                self.edges.append(Edge(self._last[0], after, joules))
            self._moved = after
        elif after - self._moved > FROZEN_SECONDS:
            raise CounterFault(f"stood still for {FROZEN_SECONDS} s while the device worked")
        self._last = before, joules
        if self._power:
            watts = self._counter.watts()
            if watts is not None:
                self.watts.append(watts)


def tick_period(counter: Counter, clock: Clock, step: Callable[[], object], ticks: int = 6) -> float:
    """The median time between `ticks` ticks or more of `counter` [s], while `step` is repeated. Raises CounterFault where none come."""
    watch = EdgeWatch(counter, clock)
    with clock.watch(watch.poll, POLL_SECONDS):
        while len(watch.edges) <= ticks:
            watch.check()
            step()
    return statistics.median(later.at - earlier.at for earlier, later in pairwise(watch.edges))


def next_edge(counter: Counter, clock: Clock, step: Callable[[], object]) -> Edge:
    """The next tick of `counter`, with `step` repeated until it has come. Raises CounterFault where none comes."""
    watch = EdgeWatch(counter, clock)
    with clock.watch(watch.poll, POLL_SECONDS):
        while (edge := watch.chosen()) is None:
            watch.check()
            step()
    return edge
