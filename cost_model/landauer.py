"""The Landauer floor: the least heat of overwriting bits, for a number of bits and for a graph. Beside every cost; it never decides.

A bit counts as erased when memory that held something else is overwritten with it and nothing keeps what was there: the bits of
each value that an op writes, once (Theorem 3.1, Proposition 3.5). Each is taken to carry a full bit of entropy: old content
that could be predicted would cost less to overwrite.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

from .counts import count_group
from .net import Net, Op

BOLTZMANN = 1.380649e-23
"""J/K, exact by the definition of the kelvin (SI 2019)."""

ROOM = 300.0
"""K."""


def landauer_joules(bits: float, kelvin: float = ROOM) -> float:
    """kT ln 2 for each of `bits` bits that are overwritten [J] (Landauer 1961; Theorem 3.1): 2.87e-21 J a bit at 300 K.

    Real hardware is seven to ten orders of magnitude above. Remark 3.1 sets 1 pJ a flop against one bit, 3e8 times (3.5e8 to two digits); a
    float32 flop overwrites 32 bits, for which it is 1.1e7 times. Raises ValueError for negative bits or temperature.
    """
    if bits < 0 or kelvin < 0:
        raise ValueError(f"bits and kelvin must not be negative, got {bits} and {kelvin}")
    return bits * BOLTZMANN * kelvin * log(2.0)


def erased_bits(ops: Iterable[Op], net: Net, fused: bool = False) -> float:
    """Bits overwritten when `ops` run one after the other, each with its outputs stored: views and identities write nothing, nor does an
    output that nobody reads. If `fused`, only what leaves the group: inside one kernel a value could be made reversibly and undone."""
    members = tuple(ops)
    groups = [members] if fused else [[op] for op in members]
    return 8.0 * sum(count_group(group, net).written for group in groups)


def graph_joules(net: Net, kelvin: float = ROOM, fused: bool = False) -> float:
    """The Landauer floor of running every op of `net` on its own [J], or all as one kernel if `fused`. Raises ValueError for a negative
    temperature."""
    return landauer_joules(erased_bits(net.ops.values(), net, fused), kelvin)
