"""`joule_ratio`: the joules of B over those of A, from windows of a counter that were taken in turn, at one shape or at several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .energy_reading import confidence_after


@dataclass(frozen=True)
class JouleRatio:
    """Joules of one call of A and of B, weighted over the shapes [J], and `ratio` = b / a with an interval that holds it with 95 %."""

    a: float
    b: float
    ratio: float
    low: float
    high: float


def joule_ratio(parts: Sequence[tuple[float, Sequence[float], Sequence[float]]]) -> JouleRatio:
    """The ratio of the weighted means of `parts`: for each shape its weight, and the joules of one call of A and of B in each window [J].

    Windows of one shape are pairs, taken in one round, so that a drift of the machine cancels; shapes may have different numbers of them.
    The interval is Student's for the mean of b - ratio x a, with the freedom of Welch and Satterthwaite where shapes scatter differently,
    and as wide as the looks at the windows ask (`confidence_after`). Raises ValueError for windows that are no pairs, or fewer than two.
    """
    for _, a, b in parts:
        if len(a) != len(b) or len(a) < 2:
            raise ValueError(f"a ratio of joules needs two pairs of windows or more, got {len(a)} and {len(b)}")
    before = sum(weight * statistics.fmean(a) for weight, a, _ in parts)
    after = sum(weight * statistics.fmean(b) for weight, _, b in parts)
    ratio = after / before
    half = 0.0
    spreads = [_variance(weight, [right - ratio * left for left, right in zip(a, b, strict=True)]) for weight, a, b in parts]
    variance = sum(spreads)
    if variance > 0:
        from scipy.special import stdtrit  # importing scipy.special takes 0.3 s, and most runs have no counter

        freedom = variance**2 / sum(spread**2 / (len(a) - 1) for spread, (_, a, _) in zip(spreads, parts, strict=True))
        confidence = confidence_after(max(len(a) for _, a, _ in parts))
        half = float(stdtrit(freedom, (1.0 + confidence) / 2.0)) * math.sqrt(variance) / before
    return JouleRatio(before, after, ratio, ratio - half, ratio + half)


def _variance(weight: float, differences: Sequence[float]) -> float:
    """Of the weighted mean of the differences."""
    return weight**2 * statistics.variance(differences) / len(differences)
