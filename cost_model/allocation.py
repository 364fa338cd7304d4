"""How many bits each layer gets: the closed form of a bit allocation, with what a bit costs at each layer.

Theorem 3.22 of the source is `plain`: equal costs. Its proof takes an error of 2^-b and would give log2; rounding noise is a variance,
4^-b, which gives the 1/2 log2 that it prints. With unlike costs the same Lagrangian gives `closed_form`: 4^-b is a law of many bits, so
that it explains a plan and ranks layers, while a plan itself is solved on measured errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def closed_form(
    sensitivities: Sequence[float],
    costs: Sequence[float],
    total: float,
    *,
    lowest: float | Sequence[float] = -np.inf,
    highest: float | Sequence[float] = np.inf,
) -> tuple[float, ...]:
    """The bits b_i that minimise sum s_i 4^-b_i subject to sum c_i b_i = `total` and `lowest` <= b_i <= `highest`.

    Without bounds b_i = total / sum(c) + 1/2 log2(s_i / c_i) - sum_j c_j 1/2 log2(s_j / c_j) / sum(c). With them, all that
    may still move shares one price: b_i = clip(1/2 log2(s_i / c_i) + level). `costs` c_i are joules per bit and `total` joules;
    `sensitivities` s_i are errors at no bits (`sensitivity`). Where the bounds do not let `total` be met, the nearest bound.

    Raises ValueError for lengths that differ, for nothing to allocate, or for what is not above zero.
    """
    s, c = np.asarray(sensitivities, float), np.asarray(costs, float)
    if not len(s) or len(s) != len(c):
        raise ValueError(f"an allocation needs one cost for each sensitivity, got {len(s)} and {len(c)}")
    if not ((s > 0) & np.isfinite(s) & (c > 0) & np.isfinite(c)).all():
        raise ValueError("sensitivities and costs of an allocation must be above zero and finite")
    low, high = (np.broadcast_to(np.asarray(bound, float), s.shape) for bound in (lowest, highest))
    ideal = 0.5 * (np.log2(s) - np.log2(c))
    # Where the sum of costs changes its slope as the common level rises: a layer leaves its lowest bound, or meets its highest.
    levels = np.unique(np.concatenate([low - ideal, high - ideal]))
    levels = levels[np.isfinite(levels)]
    spent = np.array([c @ np.clip(ideal + level, low, high) for level in levels])
    above = int(np.searchsorted(spent, total))
    if len(levels) and above == len(levels):
        middle = levels[-1] + 1.0
    elif len(levels) and above == 0:
        middle = levels[0] - 1.0
    else:
        middle = (levels[above - 1] + levels[above]) / 2 if len(levels) else 0.0
    moving = (ideal + middle > low) & (ideal + middle < high)
    bits = np.clip(ideal + middle, low, high)
    if moving.any():
        level = (total - c[~moving] @ bits[~moving] - c[moving] @ ideal[moving]) / c[moving].sum()
        bits = np.clip(np.where(moving, ideal + level, bits), low, high)
    return tuple(bits.tolist())


def plain(sensitivities: Sequence[float], mean: float) -> tuple[float, ...]:
    """Theorem 3.22 as printed: b_i = `mean` + 1/2 log2(s_i / geometric mean of s), whatever a bit costs where."""
    return closed_form(sensitivities, [1.0] * len(sensitivities), mean * len(sensitivities))


def sensitivity(error: float, bits: float) -> float:
    """The error at no bits of a layer whose error at `bits` is `error`, by the law of 4^-b."""
    return error * 4.0**bits


def bits_for(sensitivity: float, error: float) -> float:
    """Equation 18 of the source, without its O(1): the bits at which a layer's error is `error`, 1/2 log2(s / error)."""
    return 0.5 * float(np.log2(sensitivity / error))
