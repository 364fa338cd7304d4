"""Compulsory bytes: what any schedule of one op, of a fused group or of a whole net must move, however it is run.

An op needs all of its operands, whatever their values are, and a value that is written has an address of its own. Where the values
decide what is read (gathers, scatters, branches), only what every case needs is counted. Recomputing moves nothing, so it is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from . import kinds
from .counts_traffic import SILENT, leaves, root, traffic, value_bytes
from .net import Net, Op
from .window_axes import window_axes


def compulsory_bytes(ops: Iterable[Op], net: Net) -> float:
    """Least bytes that `ops`, run as one, move past any fast memory [B]: what comes from outside and is needed, and what is needed outside,
    once each. A value that is made and used inside may never leave the fast memory. Values without shape or dtype count zero."""
    members = {op.id: op for op in ops}
    alone = len(members) == 1
    needed: set[str] = set()
    known: dict[str, bool] = {}
    reads: dict[str, float] = {}
    written = 0.0
    # Whether an op is needed is known once its readers are.
    for op in members.values() if alone else reversed(net.in_order(members)):
        silent = op.kind in SILENT
        if silent and alone:
            return 0.0
        leaving = [name for name in op.outputs if name and leaves(name, net, members, known)]
        if not leaving and needed.isdisjoint(op.outputs):
            continue
        if not alone:
            needed.update(op.inputs, (root(name, net) for name in op.inputs))
        if silent:
            continue
        written += _written(op, net, leaving)
        for name, size in needed_reads(op, net).items():
            source = root(name, net)
            maker = net.producer(source)
            if maker is None or not (maker.id in members or maker.kind in kinds.FREE):
                reads[source] = max(reads.get(source, 0.0), size)
    return sum(reads.values()) + written


def needed_reads(op: Op, net: Net) -> Mapping[str, float]:
    """Bytes of each operand that the op needs whatever its values are [B]. Without: the data of a gather (all indices may name
    one element), what a scatter leaves as it was, branches and loop bodies, rows and taps that windows and causal masks skip."""
    if op.kind in kinds.CONTROL:
        return {}
    reads = dict(traffic(op, net).reads)
    first = op.inputs[0] if op.inputs else ""
    if first and op.kind in kinds.GATHER | kinds.SCATTER and op.inputs.count(first) == 1:
        reads.pop(first, None)
    elif first and op.kind == "resize":
        reads[first] = min(reads[first], sum(value_bytes(name, net) or 0.0 for name in op.outputs))
    elif op.kind in kinds.CONVOLUTION | kinds.POOL:
        reads.update(_windowed(op, net))
    elif op.kind in kinds.ATTENTION:
        reads = {name: size for name, size in reads.items() if name in op.inputs[:3]}
        for name, share in causal_shares(op, net).items():
            reads[name] *= share
    return reads


def causal_shares(op: Op, net: Net) -> dict[str, float]:
    """The share of queries, keys and values that causal attention needs, by name, whether its mask starts at the first key or ends at
    the last: min(N, S) rows of each. {} without a causal mask or where the shapes do not say."""
    shapes = [net.shape(name) or () for name in op.inputs[:3]]
    if not op.attributes.get("is_causal") or [len(shape) for shape in shapes] not in ([3, 3, 3], [4, 4, 4]):
        return {}
    lengths = [shape[-2] for shape in shapes]
    rows = min(lengths)
    return {name: rows / length for name, length in zip(op.inputs[:3], lengths, strict=True) if length}


def _windowed(op: Op, net: Net) -> dict[str, float]:
    """Input rows and kernel taps that meet something else than padding and gaps."""
    axes, x = window_axes(op, net), op.inputs[0]
    if axes is None or op.inputs.count(x) > 1:
        return {}
    shape = net.shape(x) or ()
    met = [axis.places if op.attributes.get("transposed") else axis.touched for axis in axes]
    found = {x: (value_bytes(x, net) or 0.0) * prod(m / size for m, size in zip(met, shape[2:], strict=True) if size)}
    if op.kind in kinds.CONVOLUTION:
        kernel = (net.shape(op.inputs[1]) or ())[2:]
        share = prod(axis.taps / k for axis, k in zip(axes, kernel, strict=True))
        found[op.inputs[1]] = (value_bytes(op.inputs[1], net) or 0.0) * share
    return found


def _written(op: Op, net: Net, leaving: list[str]) -> float:
    if op.kind in kinds.CONTROL:
        return 0.0
    if op.kind in kinds.ATTENTION:
        leaving = [name for name in leaving if name == op.output]
    size = sum(value_bytes(name, net) or 0.0 for name in leaving)
    if op.kind in kinds.SCATTER:
        return min(size, value_bytes(op.inputs[-1], net) or 0.0)
    return size
