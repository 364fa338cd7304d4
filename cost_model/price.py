"""From work to joules: what an op, a fused group or a whole net costs on a device.

joules = sum e_flop flops + e_byte bytes + e_link link bytes + launches e_launch + static watts x seconds. Seconds are given
(measured, or from a table) or the roofline's; where the roofline would draw more than the power limit, it is stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

UTILISATION = {
    **dict.fromkeys(kinds.MATMUL | {"einsum"}, "utilisation.matmul"),
    **dict.fromkeys(kinds.CONVOLUTION, "utilisation.conv"),
    **dict.fromkeys(kinds.ATTENTION, "utilisation.attention"),
    **dict.fromkeys(kinds.RECURRENT, "utilisation.recurrent"),
}
"""The coefficient that says which share of the arithmetic rate a kind reaches; "utilisation.elementwise" for every other kind."""


def price_counts(
    counts: Counts, device: Device, kind: str, seconds: float | None = None, label: str = "measured", name: str = ""
) -> Cost:
    """The cost of `counts`, done by a kernel of `kind`. `label` says how given `seconds` were had; without them it is "roofline".

    Given seconds are taken as they are: a real run has already waited for its power. `name` is what `unpriced` shows if the counts are
    not known. The I/O floors are the compulsory bytes. Raises InputError when the profile has no coefficient for a dtype.
    """
    near, far = split_levels(counts, device)
    value = device.values
    work: dict[str, float] = {}
    for dtype, flops in counts.flops.items():
        priced_as = device.resolve(dtype)
        work[priced_as] = work.get(priced_as, 0.0) + flops
    terms = {
        "arithmetic": sum(value[f"flop.{dtype}"] * flops for dtype, flops in work.items()),
        "memory": value["byte.memory"] * far,
        "cache": value["byte.cache"] * near,
        "link": value["link"] * counts.link,
        "launch": value["launch"] * counts.launches,
    }
    bounds = (
        {GIVEN: seconds}
        if seconds is not None
        else _roofline(work, near, far, counts.launches, sum(terms.values()), kind, device)
    )
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
        io_bytes=counts.bytes,
        io_bytes_core=counts.bytes,
        at_least=not counts.known,
        unpriced=() if counts.known else (name or kind,),
        flops_by_dtype=work,
        bytes_by_level={"memory": far, "cache": near, "link": counts.link},
        seconds_by_bound=bounds,
    )


def split_levels(counts: Counts, device: Device) -> tuple[float, float]:
    """Bytes at the last cache and at memory [B]. A value that is no constant stays in the cache if it fills at most half of it: its
    writer and its reader are neighbours. Weights come from memory, since all the others were read in between."""
    room = device.values["capacity.cache"] / 2.0
    near = min(float(sum(size for size in counts.activations if size <= room)), counts.bytes)
    return near, counts.bytes - near


def _roofline(
    work: Mapping[str, float], near: float, far: float, launches: int, dynamic: float, kind: str, device: Device
) -> dict[str, float]:
    """Seconds by what bounds them: the longer of arithmetic and traffic, the launches, and the wait that keeps `dynamic` joules and static
    power below the limit."""
    value = device.values
    share = UTILISATION.get(kind, "utilisation.elementwise")
    busy = {f"rate.{dtype} {share}": flops / (value[f"rate.{dtype}"] * value[share]) for dtype, flops in work.items()}
    moving = {"bandwidth.memory": far / value["bandwidth.memory"], "bandwidth.cache": near / value["bandwidth.cache"]}
    bounds = busy if sum(busy.values()) > sum(moving.values()) else moving
    bounds["launch_seconds"] = value["launch_seconds"] * launches
    headroom = value["power_limit"] - value["static"]
    if dynamic > 0 and headroom > 0:
        bounds["power_limit"] = max(0.0, dynamic / headroom - sum(bounds.values()))
    return {bound: seconds for bound, seconds in bounds.items() if seconds > 0}


def price_op(op: Op, net: Net, device: Device, seconds: float | None = None, label: str = "measured") -> Cost:
    """The cost of one op at the shapes of `net`, with its I/O floors. See `price_counts` for `seconds` and `label`."""
    chip, core = io_floors(op, net, device)
    return replace(
        price_counts(count(op, net), device, op.kind, seconds, label, op.id),
        io_bytes=chip,
        io_bytes_core=core,
    )


def price_group(ops: Iterable[Op], net: Net, device: Device, seconds: float | None = None, label: str = "measured") -> Cost:
    """The cost of `ops` as one kernel: one launch, and only what crosses the edge of the group is moved. Its utilisation is that of the
    member with the most flops. `unpriced` names the members that could not be counted."""
    members = tuple(ops)
    parts = {op.id: count(op, net) for op in members}
    kind = max(members, key=lambda op: sum(parts[op.id].flops.values())).kind if members else "identity"
    cost = price_counts(count_group(members, net), device, kind, seconds, label)
    floor = compulsory_bytes(members, net)
    unpriced = tuple(op.id for op in members if not parts[op.id].known)
    return replace(cost, io_bytes=floor, io_bytes_core=floor, unpriced=unpriced)


def price_net(
    net: Net,
    device: Device,
    seconds: Mapping[str, float] | None = None,
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
