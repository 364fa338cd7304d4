"""`time_fit`: rates, bandwidths, utilisations and the seconds of a launch, from microbenchmarks that each wait for one of them.

A roofline is a maximum, so a run tells only of the bound that it meets. Nothing is solved for jointly: a coefficient is the median of
what its own runs imply, and its interval spans all of them, since that is how far kernels of one kind lie apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import kinds
from .cost import Cost
from .device import Device
from .fit import Estimate, Fit
from .price import UTILISATION

ROUNDS = 4
"""Which bound a run meets depends on the other coefficients, so it is asked again after each round."""
LAUNCHING = 0.8
"""A run that spends this share of its seconds on launches tells what a launch takes."""
_LEAST_REST = 0.3
_LAUNCH, _PRODUCTS, _MEMORY, _CACHE = "launch_seconds", "utilisation.matmul", "bandwidth.memory", "bandwidth.cache"
_REACHED = "cache traffic reached"
_TILED = kinds.MATMUL | kinds.CONVOLUTION | kinds.ATTENTION


@dataclass(frozen=True)
class TimedOp:
    """One op of `kind`, its cost on a given device, and the `seconds` that it took here, with their interval [s]."""

    kind: str
    cost: Callable[[Device], Cost]
    seconds: Estimate


def time_fit(runs: Sequence[TimedOp], device: Device) -> Fit:
    """Time coefficients of the card that took the seconds of `runs`, beginning at those of `device`.

    "rate.<unit>" is that of the fastest product in it, "utilisation.matmul" the median share of it that products reach; other utilisations
    are shares of the same rates. Products are never taken for runs that wait for the cache, as their tiles are modelled; but its bandwidth
    is no less than what one of them reached. A coefficient that no run waits for is not in the result. `residual` is the median relative
    error of the roofline with the new coefficients, `condition` 1: each has its own runs. Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("there are no runs to take seconds from")
    found: dict[str, Estimate] = {}
    current = device
    for _ in range(ROUNDS):
        found = _once(runs, current)
        current = device.with_values({key: estimate.value for key, estimate in found.items()})
    errors = [abs(run.cost(current).seconds / run.seconds.value - 1.0) for run in runs]
    return Fit(found, 1.0, statistics.median(errors), len(runs))


def _once(runs: Sequence[TimedOp], device: Device) -> dict[str, Estimate]:
    """The coefficients that the runs imply where each meets the bound that it meets on `device`."""
    implied: dict[str, list[Estimate]] = {}
    for run in runs:
        for key, estimate in _implied(run, device).items():
            implied.setdefault(key, []).append(estimate)
    floors = implied.pop(_REACHED, [])
    speeds = {key: implied.pop(key) for key in list(implied) if key.startswith("rate.")}
    found = {key: _spanned(estimates) for key, estimates in implied.items()}
    if _CACHE in found and floors:
        most = max(floors, key=_value)
        found[_CACHE] = max(found[_CACHE], Estimate(most.value, found[_CACHE].low, most.high), key=_value)
    found |= {key: max(reached, key=_value) for key, reached in speeds.items()}
    shares = [_scaled(speed, 1.0 / found[key].value) for key, reached in speeds.items() for speed in reached]
    return {**found, **({_PRODUCTS: _spanned(shares)} if shares else {})}


def _implied(run: TimedOp, device: Device) -> dict[str, Estimate]:
    """What one run says: coefficient -> its value if all the rest is as on `device`; `_REACHED` is the cache traffic of a product [B/s]."""
    cost, seconds = run.cost(device), run.seconds
    launching = device.value(_LAUNCH) * cost.launches
    if launching > LAUNCHING * cost.seconds:
        return {_LAUNCH: _scaled(seconds, 1.0 / cost.launches)}
    if seconds.value - launching < _LEAST_REST * seconds.value:
        return {}
    # The least seconds give the highest coefficient, so the ends of the interval change places.
    rate = Estimate(*(1.0 / max(value - launching, 1e-12) for value in (seconds.value, seconds.high, seconds.low)))
    share = UTILISATION.get(run.kind, "utilisation.elementwise")
    arithmetic = sum(
        flops / (device.value(f"rate.{unit}") * device.value(share)) for unit, flops in cost.flops_by_dtype.items()
    )
    moved = {_MEMORY: cost.bytes_by_level["memory"], _CACHE: cost.bytes_by_level["cache"]}
    waits = {key: size / device.value(key) for key, size in moved.items()}
    if arithmetic < (waits[_MEMORY] if run.kind in _TILED else max(waits.values())):
        key = max(waits, key=lambda name: waits[name])
        return {key: _scaled(rate, moved[key])}
    found = {_REACHED: _scaled(rate, moved[_CACHE])} if run.kind in _TILED else {}
    units = list(cost.flops_by_dtype)
    if share == _PRODUCTS and len(units) == 1:
        return {**found, f"rate.{units[0]}": _scaled(rate, cost.flops_by_dtype[units[0]])}
    return {**found, share: _scaled(rate, arithmetic * device.value(share))}


def _value(estimate: Estimate) -> float:
    return estimate.value


def _spanned(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(
        statistics.median(estimate.value for estimate in estimates),
        min(estimate.low for estimate in estimates),
        max(estimate.high for estimate in estimates),
    )


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
