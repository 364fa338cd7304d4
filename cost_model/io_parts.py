"""How the bounds of the parts of a net add up."""

from __future__ import annotations

from .compulsory import compulsory_bytes
from .counts_traffic import root, value_bytes
from .io_floor import bound_bytes
from .net import Net, Op


def floor_of_parts(net: Net, fast: float) -> float:
    """Least bytes that all of `net` moves past `fast` bytes of fast memory when no value is computed twice [B]: its compulsory bytes, and
    for ops that share no value the excess of each bound over the op's own operands and results.

    Take any schedule of the net and keep what concerns one op. Loading each operand once where it was computed and storing each
    result makes it a schedule of that op alone, so the op's bound is at most the moves of its values plus all its operands and results;
    outside inputs and outputs then count once, with the net's. Where ops share values, those moves would be counted twice (Elango et al.
    2015, RR-8522, untag inputs and outputs for the same reason). A kernel that computes an operand again escapes this sum, so it is
    not the floor of `price_net`.
    """
    total, taken = compulsory_bytes(net.ops.values(), net), set[str]()
    for op in sorted(net.ops.values(), key=lambda op: -_excess(op, net, fast)):
        values = {root(name, net) for name in (*op.inputs, *op.outputs) if name}
        if not values & taken:
            total += _excess(op, net, fast)
            taken |= values
    return total


def _excess(op: Op, net: Net, fast: float) -> float:
    own = {name: value_bytes(name, net) or 0.0 for name in (*op.inputs, *op.outputs) if name}
    return max(0.0, bound_bytes(op, net, fast) - sum(own.values()))
