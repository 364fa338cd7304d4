"""Bytes that cross a link: collective operations of a group of devices, and copies from one device to another.

A device counts what it sends itself, so that the devices of a group together count every byte once. No algorithm sends fewer bytes than
a ring does (Patarasuk and Yuan, Journal of Parallel and Distributed Computing 69, 2009).
"""

from __future__ import annotations

from . import kinds
from .counts_traffic import value_bytes
from .net import Net, Op

_WHOLE_IS_WRITTEN = frozenset(["all_gather", "broadcast", "transfer"])
_TWICE = frozenset(["all_reduce"])
"""Scattered as partial sums first, and then gathered."""


def passed_on(op: Op) -> float:
    """Which share of the whole data a device of the group sends on, (n - 1) / n of n devices: half of it, the least, where the group is
    not known."""
    size = op.attributes.get("group_size")
    return 1.0 if op.kind == "transfer" else (float(size) - 1.0) / float(size) if size else 0.5


def link_bytes(op: Op, net: Net) -> float:
    """The bytes that `op` sends to other devices [B]; 0 for whatever stays on one, and for shapes that are not known."""
    if op.kind not in kinds.COLLECTIVE:
        return 0.0
    whole = sum(value_bytes(name, net) or 0.0 for name in (op.outputs if op.kind in _WHOLE_IS_WRITTEN else op.inputs) if name)
    return whole * passed_on(op) * (2.0 if op.kind in _TWICE else 1.0)


def group_known(op: Op) -> bool:
    """Whether it is known how many devices share the work of `op`."""
    return op.kind not in kinds.COLLECTIVE or op.kind == "transfer" or bool(op.attributes.get("group_size"))
