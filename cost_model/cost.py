"""`Cost` and `NetCost`: what some work costs on one device, and how costs add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LABELS = ("measured", "table", "roofline")
"""How seconds were had, best first; a sum carries the worst of its parts."""

TERMS = ("arithmetic", "memory", "cache", "link", "launch", "static")

GIVEN = "given"
"""The bound of seconds that did not come from coefficients."""


@dataclass(frozen=True)
class Cost:
    """What some work costs on one device. `terms` [J] by `TERMS` add up to `joules`; `label` says how `seconds` were had.

    `flops`, compulsory `bytes` and `launches` are totals. `bytes_by_level` says what the best tiling moves past the last cache ("memory"),
    between that cache and the cores ("cache"; bytes from memory are in both) and to another device ("link"). `flops_by_dtype` and
    `seconds_by_bound` add up; a bound is "given" or the coefficients that set those seconds, joined by " ". Floors:
    `landauer` [J]; `io_bytes` past the last cache and `io_bytes_core` past a core's own memory [B]. `at_least` is True when `unpriced`
    names ops (ids) that could not be counted: they are in at their compulsory bytes.
    """

    flops: float
    bytes: float
    launches: int
    seconds: float
    joules: float
    terms: Mapping[str, float]
    label: str
    landauer: float
    io_bytes: float
    io_bytes_core: float
    at_least: bool = False
    unpriced: tuple[str, ...] = ()
    flops_by_dtype: Mapping[str, float] = field(default_factory=dict)
    bytes_by_level: Mapping[str, float] = field(default_factory=dict)
    seconds_by_bound: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NetCost:
    """`ops` by op id, `total` their sum. The I/O floors of `total` are those of the net as a whole: what enters, leaves and is
    constant, once."""

    ops: Mapping[str, Cost]
    total: Cost


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The sum of costs, term by term. Its I/O floors are sums too, so they hold only where the parts share no values."""
    parts = tuple(costs)
    working = [cost.label for cost in parts if cost.seconds > 0] or [LABELS[0]]
    terms = {**dict.fromkeys(TERMS, 0.0), **_sum(cost.terms for cost in parts)}
    return Cost(
        flops=sum(cost.flops for cost in parts),
        bytes=sum(cost.bytes for cost in parts),
        launches=sum(cost.launches for cost in parts),
        seconds=sum(cost.seconds for cost in parts),
        joules=sum(terms.values()),
        terms=terms,
        label=max(working, key=LABELS.index),
        landauer=sum(cost.landauer for cost in parts),
        io_bytes=sum(cost.io_bytes for cost in parts),
        io_bytes_core=sum(cost.io_bytes_core for cost in parts),
        at_least=any(cost.at_least for cost in parts),
        unpriced=tuple(name for cost in parts for name in cost.unpriced),
        flops_by_dtype=_sum(cost.flops_by_dtype for cost in parts),
        bytes_by_level=_sum(cost.bytes_by_level for cost in parts),
        seconds_by_bound=_sum(cost.seconds_by_bound for cost in parts),
    )


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return total
