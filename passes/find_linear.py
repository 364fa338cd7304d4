"""`find_linear`: every matrix product with a constant weight, and which of them must share a number format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import LinearSite, Miss
from .closed import removable
from .constants import FLOATS, constant_below, stored
from .site_names import group_name, site_names

KIND = "linear"

_QUANTISED = frozenset(["matmul_integer", "matmul_integer_to_float", "matmul_nbits"])

_SAME_ROWS = frozenset(["reshape", "identity", "squeeze", "unsqueeze"])

_VIEWS = 8
"""Most views seen through between x and what it is a view of: it keeps the time linear."""

_RECURRENT = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


def find_linear(net: Net) -> tuple[tuple[LinearSite, ...], tuple[Miss, ...]]:
    """The linear sites of the main graph in topological order, and a Miss for every product with a constant that is none.

    A product of two computed values (an attention) is neither. Linear in the number of ops.
    """
    sites: list[LinearSite] = []
    misses: list[Miss] = []
    anchors: list[Op] = []
    for op in net.ops.values():
        found = _site(net, op) if op.kind == "matmul" else _refused(net, op)
        if isinstance(found, LinearSite):
            sites.append(found)
            anchors.append(op)
        elif found:
            misses.append(Miss(op.id, KIND, found))
    names = site_names(anchors)
    named = [replace(site, id=names[site.id]) for site in sites]
    return _grouped(net, named), tuple(misses)


def _refused(net: Net, op: Op) -> str:
    """Why an op of another kind that holds weights gets no number format; "" if it holds none."""
    if op.kind in _RECURRENT:
        return f"{_RECURRENT[op.kind]} {op.id} holds its weights inside one operator; no number format for recurrent operators yet."
    if op.kind in _QUANTISED:
        return f"{op.target} {op.id} is quantised already."
    return ""


def _site(net: Net, op: Op) -> LinearSite | str:
    """The site of a matmul (its id still the op's), a sentence that refuses it, or "" if it multiplies two computed values."""
    x, name = op.inputs[0], f"Matrix product {op.id}"
    weight = stored(net, op.inputs[1])
    if weight is None:
        left = constant_below(net, x)
        return f"{name} has its constant on the left; number formats are for a constant on the right." if left else ""
    if isinstance(weight, str):
        return f"{name} cannot be given a number format: {weight}."
    if constant_below(net, x):
        return f"{name} multiplies two constants; fold them before the rewrite."
    shape, kept, dtype = net.shape(x), net.shape(weight.root), net.values[op.output].dtype or ""
    if shape is None or kept is None:
        return f"{name} reads a value whose shape is not known."
    if len(kept) != 2:
        return f"{name} has a constant weight of shape {list(kept)}; a linear layer has one of two axes."
    if dtype not in FLOATS:
        return f"{name} works on {dtype}; number formats are for floating point."
    if len(shape) < 2 or op.attributes.get("transpose_a"):
        return f"{name} reads its input as one vector or transposed; number formats are for rows of inputs."
    if op.attributes.get("alpha", 1.0) != 1.0:
        return f"{name} scales its product by {op.attributes['alpha']:g}; fold the factor into the weight before the rewrite."
    transposed = bool(op.attributes.get("transpose_b")) != weight.swapped
    inner, columns = (kept[1], kept[0]) if transposed else kept
    added = _bias(net, op, columns)
    if added is None:
        return f"{name} adds a third operand that is no constant bias of {columns} numbers."
    bias, behind = added
    output = behind.output if behind else op.output
    ops = removable(net, (*weight.ops, op.id, *((behind.id,) if behind else ())), output)
    rows = math.prod(shape[:-1])
    return LinearSite(op.id, ops, x, weight.root, bias, output, inner, columns, transposed, rows, dtype, op.id)


def _bias(net: Net, op: Op, columns: int) -> tuple[str, Op | None] | None:
    """(the constant that is added, the add behind the product that does so); ("", None) without a bias; None if there is one that
    is not constant."""
    if len(op.inputs) > 2 and op.inputs[2] and op.attributes.get("beta", 1.0):
        plain = _is_bias(net, op.inputs[2], columns) and op.attributes.get("beta", 1.0) == 1.0
        return (op.inputs[2], None) if plain else None
    readers = net.consumers(op.output)
    if len(readers) == 1 and plain_add(readers[0]) and op.output not in net.outputs:
        add = readers[0]
        other = add.inputs[1] if add.inputs[0] == op.output else add.inputs[0]
        if _is_bias(net, other, columns) and net.shape(add.output) == net.shape(op.output):
            return other, add
    return "", None


def plain_add(op: Op) -> bool:
    """Whether an op adds two values and nothing else: no sum of three, no factor."""
    return op.kind == "add" and len(op.inputs) == 2 and op.attributes.get("alpha", 1) == 1


def _is_bias(net: Net, value: str, columns: int) -> bool:
    found = net.values.get(value)
    shape = found.shape if found and found.constant else None
    return bool(shape) and shape is not None and shape[-1] == columns and math.prod(shape) == columns


def _grouped(net: Net, sites: Sequence[LinearSite]) -> tuple[LinearSite, ...]:
    """The sites with `group` set: one name for those that read the same rows or share a weight."""
    leader = list(range(len(sites)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, site in enumerate(sites):
        for key in (("x", _root(net, site.x)), ("weight", site.weight)):
            low, high = sorted((find(first.setdefault(key, index)), find(index)))
            leader[high] = low
    members: dict[int, list[str]] = {}
    for index, site in enumerate(sites):
        members.setdefault(find(index), []).append(site.id)
    named = {leading: group_name(ids) for leading, ids in members.items()}
    return tuple(replace(site, group=named[find(index)]) for index, site in enumerate(sites))


def _root(net: Net, value: str) -> str:
    """The value that `value` is a view of with the same last axis: exporters flatten x anew for each product that reads it."""
    shape = net.shape(value)
    for _ in range(_VIEWS):
        op = net.producer(value)
        before = net.shape(op.inputs[0]) if op is not None and op.kind in _SAME_ROWS else None
        if op is None or not before or not shape or before[-1] != shape[-1] or "index" in op.attributes:
            break
        value = op.inputs[0]
    return value
