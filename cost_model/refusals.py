"""Why a counter that can be read must not be believed: what it counts is not the work alone, or the work is not what it will be."""

from __future__ import annotations

from .counter import Counter, CounterFault, Sensors

HOT = ("thermal slowdown", "hardware slowdown", "hardware thermal slowdown", "power brake")
"""Throttle reasons under which a device is not in a state that it can be in for long. A power cap is none: matrix units run at it."""


def refusal(sensors: Sensors) -> str | None:
    """The clause that says why joules read in this state would be wrong; None where nothing speaks against them."""
    if sensors.mig:
        return "is split by MIG and counts all its slices together; measure on a card that is not split"
    if sensors.others:
        listed = ", ".join(map(str, sensors.others[:4])) + (" and more" if len(sensors.others) > 4 else "")
        plural = "process" if len(sensors.others) == 1 else "processes"
        return f"is shared with the {plural} {listed}, whose work it counts too; stop them or measure on a free one"
    held = [reason for reason in sensors.throttle if reason in HOT]
    if held:
        return f"belongs to a device that is slowed down ({', '.join(held)}), so that its joules are not those of steady work; let it cool"
    return None


def insist(sensors: Sensors) -> Sensors:
    """`sensors` again, where nothing speaks against the counter. Raises CounterFault with the refusal where something does."""
    reason = refusal(sensors)
    if reason is not None:
        raise CounterFault(reason)
    return sensors


def opening_fault(counter: Counter) -> str | None:
    """The clause that says why `counter` cannot be used at all; None where a read succeeds in a state that is not refused.

    Heat is no reason yet: it may have gone when the work begins.
    """
    try:
        counter.joules()
        sensors = counter.sensors()
    except CounterFault as fault:
        return str(fault)
    return refusal(Sensors(mig=sensors.mig, others=sensors.others))


def unavailable(where: str, clause: str) -> str:
    """The sentence shown where no joules are measured."""
    return f"No energy counter: that of {where} {clause}; joules are modelled."
