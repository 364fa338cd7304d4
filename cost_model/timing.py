"""Seconds of callables on the machine at hand: interleaved rounds, medians with intervals that assume no distribution."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .time_table import TimeTable as TimeTable

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of `samples`, and the interval [low, high] that holds the true median with 95 % (with fewer than six
    samples: their whole range, which holds it less often)."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]


def measure_interleaved(
    callables: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    min_seconds: float = 0.01,
    warmups: int = 2,
    synchronise: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Seconds of each callable, all measured in turn in one run, so that a drift of the machine favours none.

    Each is called `warmups` times first. The order is reversed in every other round (ABBA). A sample is the mean of as many calls as
    last `min_seconds`, so that the timer's own resolution does not show; `synchronise` waits for work that these calls only queue
    (torch.cuda.synchronize), once behind all of them. Raises ValueError for no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    repeats = {}
    for name, run in callables.items():
        for _ in range(warmups):
            run()
        repeats[name] = max(1, math.ceil(min_seconds / max(_seconds(run, 1, synchronise), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in callables}
    for turn in range(rounds):
        for name in list(callables) if turn % 2 == 0 else list(callables)[::-1]:
            samples[name].append(_seconds(callables[name], repeats[name], synchronise))
    return {name: timing_of(found) for name, found in samples.items()}


def timing_of(samples: Sequence[float]) -> Timing:
    """The median of `samples` [s] and its interval. Raises ValueError when there are none."""
    low, high = median_interval(samples)
    return Timing(statistics.median(samples), low, high, tuple(samples))


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The narrowest pair of order statistics, at equal ranks from both ends, that holds the median of the distribution with `confidence`:
    each sample is below it with probability 1/2, so the number below is binomial, whatever the distribution.

    Raises ValueError when there are no samples. With fewer than six the pair is their range and holds it less often than 95 %.
    """
    ordered, count = sorted(samples), len(samples)
    if not count:
        raise ValueError("an interval needs at least one sample")
    rank, outside = 0, 0.0
    while rank < (count - 1) // 2:
        outside += math.comb(count, rank) / 2.0**count
        # Both tails: fewer than rank + 1 samples below, or above.
        if 2.0 * (outside + math.comb(count, rank + 1) / 2.0**count) > 1.0 - confidence:
            break
        rank += 1
    return ordered[rank], ordered[count - 1 - rank]


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high) of the ratios a[i] / b[i] of samples taken in the same round: what slows one round slows both sides.

    Raises ValueError when the lengths differ, there are none, or a sample of `b` is not positive.
    """
    if len(a) != len(b):
        raise ValueError(f"paired samples must be equally many, got {len(a)} and {len(b)}")
    if any(sample <= 0 for sample in b):
        raise ValueError("samples must be positive to form a ratio")
    ratios = [left / right for left, right in zip(a, b, strict=True)]
    low, high = median_interval(ratios)
    return statistics.median(ratios), low, high


def _seconds(run: Callable[[], object], repeats: int, synchronise: Callable[[], object] | None) -> float:
    wait = synchronise or (lambda: None)
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    wait()
    return (time.perf_counter() - began) / repeats
