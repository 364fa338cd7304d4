"""The power of a device that does no work, in its three states: asleep, with a context, and awake.

They differ by tens of watts on a large card. What a rewrite can save is above active idle; a user pays for the total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .counter import CounterFault
from .energy_reading import mean_interval
from .energy_window import aligned_window
from .meter import Meter
from .refusals import insist, unavailable
from .repeated_load import Load

_NAP_SECONDS = 0.01


@dataclass(frozen=True)
class IdlePower:
    """Watts [W] in the interval [`low`, `high`] (95 %), `temperature` [deg C] and `clock` [MHz] at the end, None without such a sensor."""

    watts: float
    low: float
    high: float
    temperature: float | None
    clock: float | None


@dataclass(frozen=True)
class IdleStates:
    """`deep`: no process has a context. `context`: one has, and clocks are down. `active`: clocks are up, and next to nothing is done. None
    for a state that was not measured; `label` is the meter's status, or "unavailable" with a `reason`."""

    deep: IdlePower | None
    context: IdlePower | None
    active: IdlePower | None
    label: str
    reason: str


def measure_idle(
    meter: Meter,
    *,
    open_context: Callable[[], object] | None = None,
    spin: Callable[[], object] | None = None,
    synchronise: Callable[[], object] | None = None,
    seconds: float = 2.0,
    windows: int = 5,
    settle_seconds: float = 3.0,
) -> IdleStates:
    """Watts of each state, from `windows` windows of `seconds` [s] between ticks, after `settle_seconds` [s] in the state.

    Deep idle is measured first, then `open_context` is called: without it a context is taken to be open, and there is no deep idle.
    `spin` keeps the device awake and almost idle, such as a kernel of one thread; without it there is no active idle. `synchronise` as for
    `Meter.energies`. Never fails for a counter: the label is then "unavailable".
    """
    counter, clock = meter.counter, meter.clock
    if counter is None:
        reason = (
            meter.reason if meter.status == "unavailable" else "A recording holds no idle states; measure them on the device."
        )
        return IdleStates(None, None, None, "unavailable", reason)

    def state(load: Load) -> IdlePower:
        insist(counter.sensors())
        load.start(settle_seconds)
        found = [aligned_window(counter, clock, load, seconds, 0.0) for _ in range(windows)]
        watts, low, high = mean_interval([window.watts for window in found])
        sensors = insist(counter.sensors())
        return IdlePower(watts, low, high, sensors.temperature, sensors.clock)

    nap = Load(lambda: clock.sleep(_NAP_SECONDS), clock)
    deep = active = None
    try:
        if open_context is not None:
            deep = state(nap)
            open_context()
        context = state(nap)
        if spin is not None:
            turning = Load(spin, clock, synchronise)
            turning.warm(settle_seconds)
            active = state(turning)
    except CounterFault as fault:
        return IdleStates(None, None, None, "unavailable", unavailable(counter.where, str(fault)))
    return IdleStates(deep, context, active, meter.status, meter.reason)
