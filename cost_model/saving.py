"""Intervals of prices, and of a saving: joules before less joules after, with the coefficients of the device drawn jointly.

Two prices may each be uncertain by a factor of two and their difference still be sure, since both are wrong in the same direction.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from zlib import crc32

import numpy as np

from .cost import GIVEN, Cost
from .device import Z90, Device

DRAWS = 2000


def saving_interval(before: Cost, after: Cost, device: Device, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of joules(before) - joules(after) [J].

    Each coefficient has its `low` and `high` as 5 % and 95 % quantiles, is cut off there, and a draw is used for both sides (see
    `_spread`). Roofline seconds are drawn with the coefficients that bound them; given seconds stand. The same arguments give the same
    numbers.
    """
    return _middle(_joules(before, device, draws, seed) - _joules(after, device, draws, seed))


def joules_interval(cost: Cost, device: Device, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of the joules of `cost` [J], with coefficients drawn as for `saving_interval`."""
    return _middle(_joules(cost, device, draws, seed))


def seconds_interval(cost: Cost, device: Device, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of the seconds of `cost` [s], likewise; given seconds have no width."""
    drawn = _drawn(device, draws, seed)
    seconds = np.zeros(draws)
    for bound, spent in cost.seconds_by_bound.items():
        if spent:
            seconds = seconds + spent * _slower(bound, device, drawn)
    return _middle(seconds)


def _middle(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn, (0.05, 0.95))
    return float(low), float(high)


def _drawn(device: Device, draws: int, seed: int) -> Callable[[str], np.ndarray]:
    def drawn(key: str) -> np.ndarray:
        coefficient = device.coefficients[key]
        return _spread(coefficient.value, coefficient.low, coefficient.high, draws, f"{seed}:{key}")

    return drawn


def _joules(cost: Cost, device: Device, draws: int, seed: int) -> np.ndarray:
    drawn = _drawn(device, draws, seed)
    joules = cost.launches * drawn("launch")
    for dtype, flops in cost.flops_by_dtype.items():
        joules = joules + flops * drawn(f"flop.{dtype}")
    for level, size in cost.bytes_by_level.items():
        joules = joules + size * drawn("link" if level == "link" else f"byte.{level}")
    for bound, spent in cost.seconds_by_bound.items():
        if spent:  # a coefficient that was fitted to zero has no relative spread
            joules = joules + drawn("static") * spent * _slower(bound, device, drawn)
    return joules


def _slower(bound: str, device: Device, drawn: Callable[[str], np.ndarray]) -> np.ndarray | float:
    """By which factor each draw lengthens the seconds that `bound` set: more of a rate is faster; more of what is in seconds is slower."""
    if bound == GIVEN:
        return 1.0
    if bound == "launch_seconds" or bound.startswith("time."):
        return drawn(bound) / device.value(bound)
    factor: np.ndarray | float = 1.0
    for key in bound.split(" "):
        factor = factor * device.value(key) / drawn(key)
    return factor


@lru_cache(maxsize=256)
def _spread(value: float, low: float, high: float, draws: int, seed: str) -> np.ndarray:
    """Draws around `value` with their 5 % at `low` and their 95 % at `high`: lognormal, each side with a spread of its own.

    Down to nothing no ratio leads: with `low` at zero both sides are normal. And a side that is only lognormal would, for a tiny `low`, put
    half of all draws near nothing; it never falls below the normal one. So no draw comes nearer to `value` when an interval is widened.
    """
    if high <= low:
        return np.full(draws, value)
    normal = np.random.default_rng(crc32(seed.encode())).standard_normal(draws)
    way, end = np.minimum(np.abs(normal) / Z90, 1.0), np.where(normal < 0, low, high)
    if low <= 0:
        return value + way * (end - value)
    drawn = value * (end / value) ** way
    return np.where(normal < 0, np.maximum(drawn, value * (1.0 - way)), drawn)
