"""A card with a known power curve, for machines that have none: clock, device and flawed sensors in one, so that meters can be tested.

Time is virtual: it moves only when a load works or somebody sleeps. What the sensors get wrong is what real ones do (Yang et al., SC24,
arXiv 2312.02741): they tick every 100 ms, look at 25 ms, have a gain of their own, and wrap, freeze, reset or say nothing.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from .counter import CounterFault, Sensors, Unwrapped

POLL_SPREAD = (0.8, 1.6)
LATE_POLL_SECONDS = 0.005
LATE_POLL_CHANCE = 0.01
"""A poll comes after 0.8 to 1.6 of its period, and one in a hundred 5 ms late, as threads do."""
AWAKE_SECONDS = 1.0


@dataclass(frozen=True)
class CardTraits:
    """What is true of a simulated card, and what its sensors make of it.

    True power [W] is `deep_watts` until a load first runs, `context_watts` from one second after the last one, else `active_watts` and the
    load's; each tick it varies by `flicker` (relative sd of the load's), drifts with an sd of `drift_watts` over half a minute, and leaks
    `leakage` of `active_watts` more for each degree above 35, which the card nears by `kelvin_per_watt` with `heat_seconds`.

    The sensors tick every `tick` seconds with an sd of `tick_jitter` [s], integrate all of it (`full`) or the last `window` seconds, read
    `gain` times the truth with a relative sd of `noise` each tick, in steps of 1 mJ, and wrap at `span` [J]. From `freeze_at` [s] on they
    stand still, at `reset_at` [s] they start again at zero; `fault` is raised by every read.
    """

    seed: int = 0
    deep_watts: float = 75.0
    context_watts: float = 90.0
    active_watts: float = 120.0
    flicker: float = 0.01
    drift_watts: float = 1.0
    leakage: float = 0.003
    kelvin_per_watt: float = 0.06
    heat_seconds: float = 40.0
    tick: float = 0.1
    tick_jitter: float = 0.001
    window: float = 0.025
    full: bool = True
    gain: float = 1.0
    noise: float = 0.002
    span: float | None = None
    freeze_at: float = math.inf
    reset_at: float = math.inf
    fault: str = ""
    sensors: Sensors = field(default_factory=lambda: Sensors(device="simulated card", driver="simulated", power_limit=700.0))


class SimulatedCard:
    """A card with `traits`. It is a `Clock` and a `Counter`."""

    where = "a simulated card"

    def __init__(self, traits: CardTraits | None = None) -> None:
        self.traits = traits = traits or CardTraits()
        self._random = random.Random(traits.seed)
        self._now, self._worked = 0.0, -math.inf
        self._awake = False
        self._watts: float | None = None
        self._joules, self._points = 0.0, [(0.0, 0.0)]
        self._temperature, self._drift, self._flicker = 35.0, 0.0, 1.0
        self._ticked, self._ticked_joules = 0.0, 0.0
        self._next_tick = traits.tick * self._random.random()
        self._counted = 1000.0 * self._random.random()
        self._shown, self._sampled = self._counted, traits.deep_watts
        self._reset = False
        self._poll: Callable[[], None] | None = None
        self._period, self._next_poll = 0.0, math.inf
        self._ledger: dict[str, tuple[list[float], list[float], list[float]]] = {}
        self._joules_read = Unwrapped(self._raw, traits.span, self.now)

    def now(self) -> float:
        """Virtual time [s]."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """`seconds` [s] without work."""
        self._pass(seconds, None)

    @contextmanager
    def watch(self, poll: Callable[[], None], period: float) -> Iterator[None]:
        """Calls `poll` at once, and about every `period` [s] of virtual time while the context is open. One watch at a time."""
        if self._poll is not None:
            raise ValueError("a simulated card has one watch at a time")
        self._poll, self._period = poll, period
        self._beat()
        try:
            yield
        finally:
            self._poll, self._next_poll = None, math.inf

    def load(self, name: str, shape: Sequence[tuple[float, float]]) -> Callable[[], None]:
        """A run that takes (seconds, watts above active idle) of `shape` one after the other, known to `truth` as `name`."""
        times, joules, calls = self._ledger.setdefault(name, ([], [], []))

        def run() -> None:
            began, before = self._now, self._joules
            for seconds, watts in shape:
                self._pass(seconds, watts)
            spent = self._joules - before
            times.extend((began, self._now))
            joules.extend((joules[-1] if joules else 0.0, (joules[-1] if joules else 0.0) + spent))
            calls.extend((calls[-1] if calls else 0.0, (calls[-1] if calls else 0.0) + 1.0))

        return run

    def truth(self, name: str, began: float = 0.0, ended: float = math.inf) -> float:
        """The joules [J] that one call of the load `name` really took, the mean of those that ended from `began` to `ended` [s]."""
        times, joules, calls = self._ledger[name]
        first, last = max(0, bisect.bisect_left(times, began) - 1), min(bisect.bisect_right(times, ended), len(times) - 1)
        return (joules[last] - joules[first]) / (calls[last] - calls[first])

    def joules(self) -> float:
        """What the counter shows, wraps corrected [J]. Raises CounterFault."""
        return self._joules_read()

    def watts(self) -> float:
        """The power sample of the last tick [W]."""
        return self._sampled

    def sensors(self) -> Sensors:
        """The traits' sensors, with temperature and clock of the moment."""
        clock = 1980.0 if self._awake and self._now - self._worked <= AWAKE_SECONDS else 345.0
        return replace(self.traits.sensors, temperature=float(round(self._temperature)), clock=clock)

    def _raw(self) -> float:
        if self.traits.fault:
            raise CounterFault(self.traits.fault)
        shown = math.floor(self._shown * 1e3) / 1e3
        return shown if self.traits.span is None else shown % self.traits.span

    def _beat(self) -> None:
        if self._poll is not None:
            self._poll()
            late = LATE_POLL_SECONDS if self._random.random() < LATE_POLL_CHANCE else 0.0
            self._next_poll = self._now + self._period * self._random.uniform(*POLL_SPREAD) + late

    def _pass(self, seconds: float, watts: float | None) -> None:
        """Moves time on at the load's `watts` (None: idle), stopping at every tick and poll."""
        end = self._now + max(0.0, seconds)
        while True:
            stop = min(end, self._next_tick, self._next_poll)
            self._integrate(stop, watts)
            if stop == self._next_tick:
                self._tick()
            elif stop == self._next_poll:
                self._beat()
            elif stop >= end:
                return

    def _integrate(self, stop: float, load: float | None) -> None:
        traits = self.traits
        if load is not None:
            self._awake, self._worked = True, stop
        if not self._awake:
            base = traits.deep_watts
        elif self._now - self._worked > AWAKE_SECONDS:
            base = traits.context_watts
        else:
            base = traits.active_watts
        leak = traits.active_watts * traits.leakage * (self._temperature - 35.0)
        watts = base + leak + self._drift + (load or 0.0) * self._flicker
        if watts != self._watts:
            self._points.append((self._now, self._joules))
            self._watts = watts
        self._joules += watts * (stop - self._now)
        self._now = stop

    def _tick(self) -> None:
        traits, chance, spent = self.traits, self._random, self._now - self._ticked
        mean = (self._joules - self._ticked_joules) / spent if spent else 0.0
        sampled = (self._joules - self._joules_at(self._now - traits.window)) / traits.window * traits.gain
        seen = (mean * traits.gain if traits.full else sampled) * spent
        self._counted += seen * (1.0 + traits.noise * chance.gauss(0.0, 1.0))
        if self._now >= traits.reset_at and not self._reset:
            self._counted, self._reset = 0.0, True
        if self._now < traits.freeze_at:
            self._shown, self._sampled = self._counted, sampled * (1.0 + traits.noise * chance.gauss(0.0, 1.0))
        self._temperature += (35.0 + traits.kelvin_per_watt * mean - self._temperature) * -math.expm1(
            -spent / traits.heat_seconds
        )
        fade = math.exp(-spent / 30.0)
        self._drift = self._drift * fade + traits.drift_watts * math.sqrt(1.0 - fade * fade) * chance.gauss(0.0, 1.0)
        self._flicker = 1.0 + traits.flicker * chance.gauss(0.0, 1.0)
        # Older points are needed for one more look only.
        self._points = [(self._now, self._joules)]
        self._watts = None
        self._ticked, self._ticked_joules = self._now, self._joules
        self._next_tick = self._now + max(traits.tick / 2.0, traits.tick + traits.tick_jitter * chance.gauss(0.0, 1.0))

    def _joules_at(self, time: float) -> float:
        """True joules at a `time` since the last tick."""
        for index in range(len(self._points) - 1, -1, -1):
            began, joules = self._points[index]
            if began <= time or index == 0:
                later, total = self._points[index + 1] if index + 1 < len(self._points) else (self._now, self._joules)
                return joules + (total - joules) * (
                    min(max((time - began) / (later - began), 0.0), 1.0) if later > began else 0.0
                )
        raise AssertionError("a card has at least one point")
