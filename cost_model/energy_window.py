"""`aligned_window`: joules of a load between two ticks of a counter, with the work still running at both.

A counter that samples only a part of each tick (25 of every 100 ms on some cards) sees always the same part of a call whose period
is near a multiple of the tick. Such calls are measured in eight short windows, each begun at another phase of the tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clock import Clock
from .counter import Counter
from .counter_edges import EdgeWatch, next_edge
from .repeated_load import Load

MIDDLE_SECONDS = 0.03
"""Between reads inside a window [s]: often enough to see every power sample of a card, and a counter that stops."""
PHASES = 8
SAMPLED_SHARE = 0.25
"""The smallest share of time that a known sensor looks at."""
_SLOWEST_TICK = 0.02
_LONGEST_TICKS = 5
_EVEN = 0.5


@dataclass(frozen=True)
class Window:
    """`joules` [J] that `calls` calls took in `seconds` [s], between `began` and `ended` on the clock.

    `edge_seconds` is the wider bracket of the two edges [s], `sampled_watts` the mean of the power samples [W], None without any.
    """

    joules: float
    calls: float
    seconds: float
    began: float
    ended: float
    edge_seconds: float
    sampled_watts: float | None

    @property
    def joules_per_call(self) -> float:
        """Joules of one call [J]."""
        return self.joules / self.calls

    @property
    def seconds_per_call(self) -> float:
        """Seconds of one call [s]."""
        return self.seconds / self.calls

    @property
    def watts(self) -> float:
        """Mean power by the counter [W]."""
        return self.joules / self.seconds


def aligned_window(
    counter: Counter, clock: Clock, load: Load, seconds: float, settle_seconds: float, start_after: float | None = None
) -> Window:
    """One window of at least `seconds` [s] of `load`, after `settle_seconds` [s] of it.

    With `start_after`, the load begins so long [s] after a tick that finds the device idle. Raises CounterFault for a counter that stands
    still, goes backwards or cannot be read.
    """
    if start_after is not None:
        tick = next_edge(counter, clock, lambda: clock.sleep(0.002))
        clock.sleep(tick.at + start_after - clock.now())
    load.start(settle_seconds)
    first = next_edge(counter, clock, load.step)
    middle = EdgeWatch(counter, clock, power=True)
    with clock.watch(middle.poll, MIDDLE_SECONDS):
        load.run_until(first.at + seconds)
    middle.check()
    last = next_edge(counter, clock, load.step)
    return Window(
        joules=last.joules - first.joules,
        calls=load.calls_between(first.at, last.at),
        seconds=last.at - first.at,
        began=first.at,
        ended=last.at,
        edge_seconds=max(first.width, last.width),
        sampled_watts=float(np.mean(middle.watts)) if middle.watts else None,
    )


def phased_window(
    counter: Counter, clock: Clock, load: Load, seconds: float, settle_seconds: float, tick: float, period: float
) -> Window:
    """Eight windows as one, each begun at another eighth of the `tick` [s], of `seconds` [s] together and two calls of `period` [s] each.
    Raises CounterFault as `aligned_window` does."""
    each = max(seconds / PHASES, 2.0 * period)
    return merged(
        [aligned_window(counter, clock, load, each, settle_seconds, tick * phase / PHASES) for phase in range(PHASES)]
    )


def merged(windows: Sequence[Window]) -> Window:
    """Several windows of one load as one: sums of joules, calls and seconds."""
    sampled = [window.sampled_watts for window in windows if window.sampled_watts is not None]
    return Window(
        joules=sum(window.joules for window in windows),
        calls=sum(window.calls for window in windows),
        seconds=sum(window.seconds for window in windows),
        began=windows[0].began,
        ended=windows[-1].ended,
        edge_seconds=max(window.edge_seconds for window in windows),
        sampled_watts=float(np.mean(sampled)) if sampled else None,
    )


def aliased(period: float, tick: float, seconds: float) -> bool:
    """Whether a counter that looks at the last quarter of each `tick` [s] would see some eighth of a call of `period` [s] much less
    often than another in a window of `seconds` [s].

    Never for calls shorter than an eighth of the tick, which every look averages, nor for those longer than five ticks, of which each
    is seen at many places; nor for ticks below 20 ms, which no known device samples in part.
    """
    if tick < _SLOWEST_TICK or not tick / PHASES < period <= _LONGEST_TICKS * tick:
        return False
    seen = np.arange(max(PHASES, round(seconds / tick)))[:, None] * (tick / period)
    places = (np.arange(PHASES) + 0.5) / PHASES
    whole, part = divmod(SAMPLED_SHARE * tick / period, 1.0)
    looks = whole + np.mean((seen - places) % 1.0 < part, axis=0)
    return bool(looks.min() < _EVEN * looks.max())
