"""How far predictions are from measurements: errors, and whether the change that a rewrite makes is foreseen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isnan, log

import numpy as np
from scipy.stats import kendalltau

CLOSE = 0.05
"""A prediction within this share of the measurement counts as close."""


@dataclass(frozen=True)
class Errors:
    """Of `count` relative errors (predicted / measured - 1): `mape` the mean size, `median`, `p90` and `worst` its quantiles, with the
    config of the worst; `bias` the signed mean, `close` the share with a size of at most `CLOSE`."""

    count: int
    mape: float
    median: float
    p90: float
    worst: float
    worst_config: str
    bias: float
    close: float


@dataclass(frozen=True)
class Change:
    """What a rewrite did: predicted and measured, before and after, with the half-width of each measured interval, all in one unit."""

    config: str
    predicted: tuple[float, float]
    measured: tuple[float, float]
    half_widths: tuple[float, float]

    @property
    def tie(self) -> bool:
        """Whether the measured change is within its own uncertainty, the two half-widths in quadrature: it has no sign then."""
        return abs(self.measured[1] - self.measured[0]) <= hypot(*self.half_widths)


@dataclass(frozen=True)
class Signs:
    """Of the rewrites, `judged` changed the measurement beyond its uncertainty, `right` of them in the predicted direction and `worse` of
    them upwards; `ties` did not, and are neither right nor wrong. `tau` is Kendall's, of predicted against measured ratios after /
    before over all of them, None below two."""

    judged: int
    right: int
    worse: int
    ties: int
    tau: float | None


def errors_of(configs: Sequence[str], predicted: Sequence[float], measured: Sequence[float]) -> Errors:
    """The errors of predictions against measurements above zero. Raises ValueError for no rows or lengths that differ."""
    if not configs or not len(configs) == len(predicted) == len(measured):
        raise ValueError(f"errors need equally many of each, got {len(configs)}, {len(predicted)} and {len(measured)}")
    truth = np.array(measured, dtype=float)
    signed = (np.array(predicted, dtype=float) - truth) / truth
    size = np.abs(signed)
    worst = int(size.argmax())
    return Errors(
        count=len(configs),
        mape=float(size.mean()),
        median=float(np.median(size)),
        p90=float(np.quantile(size, 0.9)),
        worst=float(size[worst]),
        worst_config=configs[worst],
        bias=float(signed.mean()),
        close=float((size <= CLOSE).mean()),
    )


def signs_of(changes: Sequence[Change]) -> Signs:
    """How often the direction of a change was foreseen. A prediction of no change at all is wrong about a change that was measured."""
    judged = [change for change in changes if not change.tie]
    right = [c for c in judged if (c.predicted[1] - c.predicted[0]) * (c.measured[1] - c.measured[0]) > 0]
    worse = [c for c in judged if c.measured[1] > c.measured[0]]
    ratios = [
        (log(max(a, 1e-300) / max(b, 1e-300)), log(y / x)) for (b, a), (x, y) in ((c.predicted, c.measured) for c in changes)
    ]
    tau = float(kendalltau(*zip(*ratios, strict=True)).statistic) if len(ratios) > 1 else float("nan")
    return Signs(len(judged), len(right), len(worse), len(changes) - len(judged), None if isnan(tau) else tau)


def noise_floor(repeats: Sequence[Sequence[float]]) -> float | None:
    """The mean relative error that a perfect prediction would still show: the mean distance of repeats from the mean of their config,
    scaled up by sqrt(n / (n - 1)) for the mean being theirs. None where nothing was repeated."""
    found = []
    for values in repeats:
        if len(values) > 1:
            middle = statistics.fmean(values)
            spread = statistics.fmean(abs(value / middle - 1.0) for value in values)
            found.append(spread * (len(values) / (len(values) - 1)) ** 0.5)
    return statistics.fmean(found) if found else None
