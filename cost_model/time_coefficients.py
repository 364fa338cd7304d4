"""`time_fit`: rates, bandwidths, utilisations and the seconds of a launch, from microbenchmarks that each wait for one of them.

A roofline is a maximum, so a run tells only of the bound that it meets. Nothing is solved for jointly: a coefficient is the median of
what the kinds that wait for it imply. Kernels of one kind are slow or fast together, so that it is known as well as kinds agree, and the
better the more of them wait for it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

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
    is no less than what one of them reached. A coefficient that no run waits for is not in the result. Intervals are 90 %, see
    `_intervals`. `residual` is the median relative error of the roofline with the new coefficients; there is no `condition`, as each has
    its own runs. Raises ValueError for no runs.
    """
    if not runs:
        raise ValueError("there are no runs to take seconds from")
    current, said, found = device, {}, {}
    for _ in range(ROUNDS):
        said = _said(runs, current)
        found = _combined(said)
        current = device.with_values(found)
    residual = statistics.median(abs(run.cost(current).seconds / run.seconds.value - 1.0) for run in runs)
    return Fit(_intervals(found, said, residual), None, residual, len(runs))


_Said = dict[str, dict[str, list[Estimate]]]
"""Coefficient -> kind -> what each of its runs implies. `_REACHED` is there too."""


def _said(runs: Sequence[TimedOp], device: Device) -> _Said:
    found: _Said = {}
    for run in runs:
        for key, estimate in _implied(run, device).items():
            found.setdefault(key, {}).setdefault(run.kind, []).append(estimate)
    return found


def _combined(said: _Said) -> dict[str, float]:
    """The coefficients; each kind counts once."""
    values = {key: [estimate.value for runs in kinds.values() for estimate in runs] for key, kinds in said.items()}
    floors = values.pop(_REACHED, [])
    found = {key: _middle(said[key]) for key in values}
    if _CACHE in found:
        found[_CACHE] = max([found[_CACHE], *floors])
    found |= {key: max(reached) for key, reached in values.items() if key.startswith("rate.")}
    shares = [speed / found[key] for key, reached in values.items() if key.startswith("rate.") for speed in reached]
    return {**found, **({_PRODUCTS: statistics.median(shares)} if shares else {})}


def _middle(kinds: Mapping[str, Sequence[Estimate]]) -> float:
    return statistics.median(math.exp(log) for log in _logs(kinds))


def _logs(kinds: Mapping[str, Sequence[Estimate]]) -> list[float]:
    """What each kind says, on a log scale: the mean of its runs."""
    return [statistics.fmean(math.log(estimate.value) for estimate in runs) for runs in kinds.values()]


def _intervals(found: Mapping[str, float], said: _Said, residual: float) -> dict[str, Estimate]:
    """Each coefficient with the interval that kinds of kernels leave it.

    How far kinds lie apart is taken from all coefficients together, with Student's t; four kinds that say the same halve the doubt of one.
    It is never taken to be less than `residual`, nor an interval for narrower than the seconds of the runs themselves.
    """
    # What products reach in the cache is a floor, as far below its bandwidth as their tiles are good.
    told = {key: kinds for key, kinds in said.items() if key != _REACHED}
    squares = sum(statistics.pvariance(_logs(kinds)) * len(kinds) for kinds in told.values())
    free = sum(len(kinds) - 1 for kinds in told.values())
    apart = max(residual, math.sqrt(squares / free) if free else 0.0)
    products = {kind: runs for key, kinds in told.items() if key.startswith("rate.") for kind, runs in kinds.items()}
    result = {}
    for key, value in found.items():
        kinds = told.get(key, products)
        read = statistics.median(math.log(estimate.high / estimate.low) / 2 for runs in kinds.values() for estimate in runs)
        # A median is less sure than a mean, if it is another number.
        spread = apart * math.sqrt((math.pi / 2 if len(kinds) > 2 else 1.0) / len(kinds))
        half = max(float(student.ppf(0.95, max(1, free))) * spread, read)
        # Where the fastest run or a floor was taken, the others may have been right.
        least = min(value, _middle(told[key])) if key in told else value
        result[key] = Estimate(value, least * math.exp(-half), value * math.exp(half))
    return result


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


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
