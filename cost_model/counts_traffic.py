"""Compulsory traffic: the bytes of each value that an op must read and write at least once, whatever kernel runs it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import prod

from . import kinds
from .net import Net, Op

ITEM_BYTES: Mapping[str, float] = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8.0),
    **dict.fromkeys(("float32", "int32", "uint32"), 4.0),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2.0),
    **dict.fromkeys(("int8", "uint8", "bool"), 1.0),
    **dict.fromkeys(("int4", "uint4", "float4_e2m1fn"), 0.5),
    **dict.fromkeys(("int2", "uint2"), 0.25),
    "complex128": 16.0,
}
"""Bytes of one element by numpy name; every name that starts with "float8" is one byte."""

SILENT = kinds.FREE | kinds.VIEW | {"dropout"}
"""Kinds that move nothing and start no kernel; dropout is the identity at inference."""

ALIAS = kinds.VIEW | {"identity", "dropout"}
"""Silent kinds whose output is their first input under another name."""

PART = frozenset(["slice", "split"])


@dataclass(frozen=True)
class Traffic:
    """Bytes by value name: `reads` once each, `writes` once each. `known` is False when a shape or dtype is missing."""

    reads: Mapping[str, float]
    writes: Mapping[str, float]
    known: bool


def item_bytes(dtype: str | None) -> float | None:
    """Bytes of one element, None for a dtype that is not known (or a text)."""
    if dtype is None:
        return None
    return 1.0 if dtype.startswith("float8") else ITEM_BYTES.get(dtype)


def value_bytes(name: str, net: Net) -> float | None:
    """Bytes of one value [B], None when its shape or dtype is not known."""
    value = net.values.get(name)
    if value is None or value.shape is None:
        return None
    size = item_bytes(value.dtype)
    return None if size is None else prod(value.shape) * size


def root(name: str, net: Net, within: Container[str] | None = None) -> str:
    """The value whose bytes `name` stands for: back through views and identities (only those with an id in `within`, if it is given)."""
    passed: list[str] = []
    while (op := net.producer(name)) is not None and op.kind in ALIAS and op.inputs and op.inputs[0]:
        if within is not None:
            if op.id not in within:
                break
        elif ("root", name) in net.memo:
            name = net.memo["root", name]
            break
        passed.append(name)
        name = op.inputs[0]
    if within is None:  # views that follow each other are walked once
        net.memo.update((("root", view), name) for view in passed)
    return name


def is_constant(name: str, net: Net) -> bool:
    """Whether the bytes that `name` stands for are a weight's."""
    value = net.values.get(root(name, net))
    return value is not None and value.constant


def leaves(name: str, net: Net, members: Container[str], known: dict[str, bool], within: Container[str] | None = None) -> bool:
    """Whether a value, or a view of it (only those with an id in `within`, if it is given), is returned or read outside `members`.

    `known` are answers for the same members, and learns more: views may follow each other by the hundred.
    """
    front = [name]
    passed: list[str] = []
    found = False
    while front and not found:
        current = front.pop()
        if current in known:
            found = known[current]
            continue
        passed.append(current)
        found = net.returns(current)
        for reader in net.consumers(current):
            if reader.kind in ALIAS and (within is None or reader.id in within):
                front.append(reader.output)
            elif reader.id not in members:
                found = True
    known.update((one, found) for one in ([name] if found else passed))
    return found


def traffic(op: Op, net: Net) -> Traffic:
    """What `op` reads and writes at least [B], by value. Free kinds and views move nothing; an output that nobody reads and that
    the net does not return is not written.

    Gathers read as many elements of their data as they write; slices and splits only what they keep; a convolution
    whose stride exceeds its kernel skips rows and columns. Worked out once for each op of a net: counts and floors both ask.
    """
    if op.kind in SILENT:
        return Traffic({}, {}, True)
    key = ("traffic", op.id)
    asked: tuple[Op, Traffic] | None = net.memo.get(key)
    if asked is None or asked[0] is not op:
        asked = net.memo[key] = (op, _traffic(op, net))
    return asked[1]


def _traffic(op: Op, net: Net) -> Traffic:
    known = True
    writes: dict[str, float] = {}
    for name in op.outputs:
        if name and (net.consumers(name) or net.returns(name)):
            size = value_bytes(name, net)
            known = known and size is not None
            writes[name] = size or 0.0
    reads: dict[str, float] = {}
    for position, name in enumerate(op.inputs):
        if name:
            size = value_bytes(name, net)
            known = known and size is not None
            reads[name] = max(reads.get(name, 0.0), _touched(op, net, position, size or 0.0, sum(writes.values())))
    return Traffic(reads, writes, known)


def _touched(op: Op, net: Net, position: int, size: float, written: float) -> float:
    """The part of an operand of `size` bytes that must be read when `written` bytes come out."""
    table = net.values.get(op.inputs[position])
    if op.kind == "embedding" and table is not None and table.constant and len(table.shape or ()) == 2:
        shape, found = table.shape, net.shape(op.output)
        return size if not shape or found is None else min(size, size / max(shape[0], 1) * prod(found[:-1]))
    if position == 0 and (op.kind in kinds.GATHER or op.kind in PART):
        return min(size, written)
    if position == 0 and op.kind == "conv" and not op.attributes.get("transposed"):
        weight = net.shape(op.inputs[1])
        strides = op.attributes.get("strides") or ()
        return size * prod(min(1.0, k / s) for k, s in zip(weight[2:] if weight else (), strides, strict=False))
    return size
