"""A net with the branches that are taken in place of their `if`s, so that each of their ops is one op of the net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .net import Net, Op, Value


def with_taken_branches(net: Net) -> Net:
    """`net` with every `if` whose branch is known (attribute "taken") replaced by the ops of that branch, nested ones too.

    Their values keep their names, unless another value has that name: then the `if`'s id and "/" go before it. An `if` whose branch is
    not known stays, as do loops. Raises ValueError for two ops of one id.
    """
    if not any(_taken(op) is not None for op in net.ops.values()):
        return net
    ops: dict[str, Op] = {}
    values = dict(net.values)
    renamed: dict[str, str] = {}
    _put(net, ops, values, renamed)
    return Net(ops, values, net.inputs, tuple(renamed.get(name, name) for name in net.outputs))


def _taken(op: Op) -> Net | None:
    index = op.attributes.get("taken")
    return op.branches[index] if op.kind == "if" and index is not None else None


def _put(net: Net, ops: dict[str, Op], values: dict[str, Value], renamed: dict[str, str]) -> None:
    """Add the ops of `net` to `ops`. `renamed` maps names of `net` to those in the result, and learns the outputs of each `if`."""
    for op in net.ops.values():
        body = _taken(op)
        if body is None:
            if op.id in ops:
                raise ValueError(f"two ops have the id {op.id}")
            ops[op.id] = replace(op, inputs=_names(op.inputs, renamed), outputs=_names(op.outputs, renamed))
            continue
        inside = dict(renamed)
        captured = frozenset(body.captured)
        for name, value in body.values.items():
            if name in captured:
                continue
            new = f"{op.id}/{name}" if name in values else name
            inside[name] = new
            values[new] = replace(value, name=new)
        _put(body, ops, values, inside)
        renamed.update(zip(op.outputs, _names(body.outputs, inside), strict=False))


def _names(names: tuple[str, ...], renamed: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(renamed.get(name, name) for name in names)
