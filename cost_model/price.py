"""From work to joules: what an op, a fused group or a whole net costs on a device.

joules = sum e_flop flops + e_memory bytes past the last cache + e_cache bytes between cache and core + e_link link bytes
+ launches e_launch + static watts x seconds. Every byte of an operand pays e_cache on its way to a core, and e_memory on top where it
comes from memory. Seconds are given (measured, or from a table) or the roofline's: the longest of arithmetic and of the traffic at
each level, and the launches; where that would draw more than the power limit, it is stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from . import kinds
from .collection import collection_paused
from .compulsory import compulsory_bytes
from .cost import GIVEN, Cost, NetCost, total_cost
from .counts import Counts, count, count_group
from .device import Device
from .io_floor import io_floors
from .landauer import landauer_joules
from .net import Net, Op
from .saving import saving_interval as saving_interval
from .tile_reuse import reread

Seconds = float | Mapping[str, float]
"""Given seconds [s]: a number that was measured, or what each coefficient contributes to it (`kernel_times`)."""

UTILISATION = {
    **dict.fromkeys(kinds.MATMUL | {"einsum"}, "utilisation.matmul"),
    **dict.fromkeys(kinds.CONVOLUTION, "utilisation.conv"),
    **dict.fromkeys(kinds.ATTENTION, "utilisation.attention"),
    **dict.fromkeys(kinds.RECURRENT, "utilisation.recurrent"),
}
"""The coefficient that says which share of the arithmetic rate a kind reaches; "utilisation.elementwise" for every other kind."""


def price_counts(
    counts: Counts, device: Device, kind: str, seconds: Seconds | None = None, label: str = "measured", name: str = ""
) -> Cost:
    """The cost of `counts`, done by a kernel of `kind`. `label` says how given `seconds` were had; without them it is "roofline".

    Given seconds are taken as they are: a real run has already waited for its power. `name` is what `unpriced` shows if the counts are
    not known. The I/O floors are the compulsory bytes. Raises InputError when the profile has no coefficient for a dtype.
    """
    return _priced(counts, device, [(kind, counts.flops)], seconds, label, name or kind, (counts.bytes, counts.bytes))


def _priced(
    counts: Counts,
    device: Device,
    parts: Sequence[tuple[str, Mapping[str, float]]],
    seconds: Seconds | None,
    label: str,
    name: str,
    floors: tuple[float, float],
) -> Cost:
    """The cost of `counts`, whose flops are those of `parts`: (kind, flops by dtype), each at the utilisation of its kind. `floors` are
    the I/O floors of the chip and of a core [B]."""
    value = device.values
    moved = bytes_by_level(counts, device)
    work: dict[str, float] = {}
    busy: dict[str, float] = {}
    for kind, by_dtype in parts:
        share = UTILISATION.get(kind, "utilisation.elementwise")
        for dtype, flops in by_dtype.items():
            unit, times = device.unit(dtype)
            work[unit] = work.get(unit, 0.0) + times * flops
            bound = f"rate.{unit} {share}"
            busy[bound] = busy.get(bound, 0.0) + times * flops / (value[f"rate.{unit}"] * value[share])
    terms = {
        "arithmetic": sum(value[f"flop.{unit}"] * flops for unit, flops in work.items()),
        "memory": value["byte.memory"] * moved["memory"],
        "cache": value["byte.cache"] * moved["cache"],
        "link": value["link"] * moved["link"],
        "launch": value["launch"] * counts.launches,
    }
    if isinstance(seconds, Mapping):
        bounds = dict(seconds)
    elif seconds is not None:
        bounds = {GIVEN: seconds}
    else:
        bounds = _roofline(busy, moved, counts.launches, sum(terms.values()), device)
    spent = sum(bounds.values())
    terms["static"] = value["static"] * spent
    return Cost(
        flops=sum(counts.flops.values()),
        bytes=counts.bytes,
        launches=counts.launches,
        seconds=spent,
        joules=sum(terms.values()),
        terms=terms,
        label="roofline" if seconds is None else label,
        landauer=landauer_joules(8.0 * counts.written),
        io_bytes=floors[0],
        io_bytes_core=floors[1],
        at_least=not counts.known,
        unpriced=() if counts.known else (name,),
        flops_by_dtype=work,
        bytes_by_level=moved,
        seconds_by_bound=bounds,
    )


def bytes_by_level(counts: Counts, device: Device) -> dict[str, float]:
    """Bytes past the last cache ("memory"), between cache and cores ("cache") and to another device ("link") [B].

    Operands that a level does not hold are read again, as often as the best tiling must (`tile_reuse`). A value that is no constant
    never leaves the cache if it fills at most half of it: its writer and its reader are neighbours. Weights come from memory, since
    all the others were read in between.
    """
    value = device.values
    room = value["capacity.cache"] / 2.0
    kept = min(float(sum(size for size in counts.activations if size <= room)), counts.bytes)
    return {
        "memory": counts.bytes - kept + reread(counts.nests, value["capacity.cache"]),
        "cache": counts.bytes + reread(counts.nests, value["capacity.core"]),
        "link": counts.link,
    }


def _roofline(
    busy: Mapping[str, float], moved: Mapping[str, float], launches: int, dynamic: float, device: Device
) -> dict[str, float]:
    """Seconds by what bounds them: the longest of arithmetic and the traffic of each level, since all overlap; the launches; and the wait
    that keeps `dynamic` joules and static power below the limit."""
    value = device.values
    # How fast a link is may be unknown: then only its joules count.
    known = [level for level in ("memory", "cache", "link") if f"bandwidth.{level}" in value]
    levels = [{f"bandwidth.{level}": moved[level] / value[f"bandwidth.{level}"]} for level in known]
    longest = max([busy, *levels], key=lambda bounds: sum(bounds.values()))
    bounds = {**longest, "launch_seconds": value["launch_seconds"] * launches}
    headroom = value["power_limit"] - value["static"]
    if dynamic > 0 and headroom > 0:
        bounds["power_limit"] = max(0.0, dynamic / headroom - sum(bounds.values()))
    return {bound: seconds for bound, seconds in bounds.items() if seconds > 0}


def price_op(op: Op, net: Net, device: Device, seconds: Seconds | None = None, label: str = "measured") -> Cost:
    """The cost of one op at the shapes of `net`, with its I/O floors. See `price_counts` for `seconds` and `label`."""
    counts = count(op, net)
    return _priced(counts, device, [(op.kind, counts.flops)], seconds, label, op.id, io_floors(op, net, device))


def price_group(ops: Iterable[Op], net: Net, device: Device, seconds: Seconds | None = None, label: str = "measured") -> Cost:
    """The cost of `ops` as one kernel: one launch, and only what crosses the edge of the group is moved. Each member's arithmetic reaches
    the utilisation of its own kind. So a group never costs more than its members apart. `unpriced` names the members that could
    not be counted."""
    members = tuple(ops)
    parts = [(op, count(op, net)) for op in members]
    kinds_of = [(op.kind, counts.flops) for op, counts in parts]
    floor = compulsory_bytes(members, net)
    cost = _priced(count_group(members, net), device, kinds_of, seconds, label, "", (floor, floor))
    return replace(cost, unpriced=tuple(op.id for op, counts in parts if not counts.known))


def price_net(
    net: Net,
    device: Device,
    seconds: Mapping[str, Seconds] | None = None,
    label: str = "measured",
    total_seconds: float | None = None,
) -> NetCost:
    """The cost of every op of `net` and their total. `seconds` maps op ids to given seconds; other ops take the roofline's.

    `total_seconds` are given seconds of the net as a whole: the total then pays static power for them, whatever its ops add up to.
    """
    given = seconds or {}
    with collection_paused():
        costs = {op.id: price_op(op, net, device, given.get(op.id), label) for op in net.ops.values()}
        edge = compulsory_bytes(net.ops.values(), net)
    total = replace(total_cost(costs.values()), io_bytes=edge, io_bytes_core=edge)
    if total_seconds is not None:
        total = with_seconds(total, device, total_seconds, label)
    return NetCost(costs, total)


def with_seconds(cost: Cost, device: Device, seconds: float, label: str = "measured") -> Cost:
    """The same work in given `seconds`: only the static term changes."""
    terms = {**cost.terms, "static": device.values["static"] * seconds}
    return replace(
        cost, seconds=seconds, terms=terms, joules=sum(terms.values()), label=label, seconds_by_bound={GIVEN: seconds}
    )
