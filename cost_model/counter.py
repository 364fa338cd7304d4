"""`Counter`: cumulative joules of one device, and what its other sensors say. Refusals to read it are `CounterFault`s with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LARGEST_WATTS = 20e3
"""More than any one counter's device draws [W]: a counter that moved by more was reset, or has wrapped without saying where."""
SLACK_SECONDS = 0.2
"""How far a counter's own tick may lag behind the time of a read [s]."""


class CounterFault(Exception):
    """A counter cannot be read, or its numbers cannot be trusted. Its text is a clause: what is wrong, without a full stop."""


@dataclass(frozen=True)
class Sensors:
    """What a device says besides its joules; None, "" or () where it says nothing.

    `temperature` [deg C], `clock` of the arithmetic units [MHz], `power_limit` [W], `throttle` the reasons why clocks are held down, by
    name, `mig` whether the card is split, `others` the ids of further processes that work on it.
    """

    temperature: float | None = None
    clock: float | None = None
    power_limit: float | None = None
    throttle: tuple[str, ...] = ()
    device: str = ""
    driver: str = ""
    mig: bool = False
    others: tuple[int, ...] = ()


class Counter(Protocol):
    """A cumulative energy counter. `where` names it in sentences: "card 0 (NVIDIA H200)"."""

    @property
    def where(self) -> str:
        """What is counted."""
        ...

    def joules(self) -> float:
        """Joules since some start [J], never less than before. Raises CounterFault."""
        ...

    def watts(self) -> float | None:
        """The power of this instant as the device samples it [W]; None where it does not."""
        ...

    def sensors(self) -> Sensors:
        """The other sensors, now. A sensor that fails is left out."""
        ...


class Unwrapped:
    """A raw counter [J] made to grow for ever: where it wraps, `span` [J] is added; `now` is the clock's.

    A call raises CounterFault when the counter went backwards and cannot have wrapped: it has no span, or the joules that a wrap implies
    are more than any device draws in the time since the last call.
    """

    def __init__(self, read: Callable[[], float], span: float | None, now: Callable[[], float]) -> None:
        self._read, self._span, self._now = read, span, now
        self._raw: float | None = None
        self._at = 0.0
        self._joules = 0.0

    def __call__(self) -> float:
        raw, now = self._read(), self._now()
        before, elapsed = self._raw, now - self._at
        self._raw, self._at = raw, now
        if before is None:
            return self._joules
        moved = raw - before
        if moved < 0 and self._span is not None:
            moved += self._span
        if moved < 0:
            raise CounterFault(f"went backwards from {before:.6g} to {raw:.6g} J, as after a reset of its driver")
        if moved > LARGEST_WATTS * (elapsed + SLACK_SECONDS):
            raise CounterFault(
                f"jumped from {before:.6g} to {raw:.6g} J within {elapsed:.3g} s, as after a reset of its driver"
            )
        self._joules += moved
        return self._joules
