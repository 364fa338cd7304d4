"""`Floors`: what no way of running a net falls below, in joules of erased bits and in bytes moved. They never decide anything."""

from __future__ import annotations

from dataclasses import dataclass

from .collection import collection_paused
from .compulsory import compulsory_bytes
from .device import Device
from .io_floor import fast_memories
from .io_parts import floor_of_parts
from .landauer import graph_joules
from .net import Net


@dataclass(frozen=True)
class Floors:
    """Of one call, from a cold start. `landauer` [J]: what leaves the net alone is overwritten, as one kernel of reversible steps could do
    it; `landauer_stored` [J]: every op stores its results. `memory_bytes` [B] between memory and the chip, whatever is computed again;
    `core_bytes` [B] between the last cache and the cores where no value is computed twice."""

    landauer: float
    landauer_stored: float
    memory_bytes: float
    core_bytes: float


def floors_of(net: Net, device: Device) -> Floors:
    """The floors of one call of `net` on `device`, whose memories bound the bytes. Values without shape or dtype count zero."""
    with collection_paused():
        return Floors(
            landauer=graph_joules(net, fused=True),
            landauer_stored=graph_joules(net),
            memory_bytes=compulsory_bytes(net.ops.values(), net),
            core_bytes=floor_of_parts(net, fast_memories(device)[1]),
        )
