"""What stands behind a linear layer that the epilogue of a kernel can take in: an activation, and the add of a residual."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..cost_model.net import Net, Op
from ..cost_model.sites import LinearSite
from .find_linear import plain_add

FUNCTIONS: Mapping[str, Mapping[str, Any]] = {"relu": {}, "gelu": {"approximate": "none"}, "silu": {"alpha": 1.0}}
"""The activations of `kernels.linear_parts.epilogue`, and the attributes with which an op is that function."""


def with_epilogues(net: Net, sites: Iterable[LinearSite]) -> tuple[LinearSite, ...]:
    """The sites, in topological order as before, with `activation` and `residual` set. Of two layers that meet in one add the later has it.
    Linear in the number of sites."""
    taken: set[str] = set()
    found = []
    for site in reversed(tuple(sites)):
        activation = _activation(net, site.output)
        add = _residual(net, activation[-1].output if activation else site.output)
        residual = add.id if add is not None and add.id not in taken else ""
        taken.add(residual)
        found.append(replace(site, activation=tuple(op.id for op in activation), residual=residual))
    return tuple(reversed(found))


def _readers(net: Net, value: str) -> list[Op]:
    """The ops that read a value; none where it is read outside of the net too."""
    return [] if net.returns(value) else list(net.consumers(value))


def _activation(net: Net, value: str) -> tuple[Op, ...]:
    """The op of an activation that alone reads `value`, or the two that are value * sigmoid(value), as tracers write a silu."""
    readers = _readers(net, value)
    if len(readers) == 1 and readers[0].kind in FUNCTIONS:
        op = readers[0]
        return (op,) if all(op.attributes.get(name, is_) == is_ for name, is_ in FUNCTIONS[op.kind].items()) else ()
    if sorted(op.kind for op in readers) != ["mul", "sigmoid"]:
        return ()
    product, sigmoid = sorted(readers, key=lambda op: op.kind)
    silu = set(product.inputs) == {value, sigmoid.output} and _readers(net, sigmoid.output) == [product]
    return (sigmoid, product) if silu else ()


def _residual(net: Net, value: str) -> Op | None:
    """The add of a computed value of the same shape and dtype."""
    readers = _readers(net, value)
    if len(readers) != 1 or not plain_add(op := readers[0]) or op.inputs[0] == op.inputs[1]:
        return None
    other = net.values.get(op.inputs[1] if op.inputs[0] == value else op.inputs[0])
    wanted = net.values[value]
    if other is None or other.constant or other.shape is None or other.shape != wanted.shape or other.dtype != wanted.dtype:
        return None
    return op
