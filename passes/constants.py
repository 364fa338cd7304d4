"""What a finder may know at rewrite time: numbers behind values, and constants behind views and casts of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..cost_model.net import Net, Op
from .axes import MOVES

FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of the floating types that sites are made of."""

_STEPS = 12
"""Longest chain of ops followed behind one number: exporters write a scale as Shape, Slice, Cast, Sqrt, Div."""

_SAME = frozenset(["identity", "cast", "reshape", "squeeze", "unsqueeze", "expand"])

_MOVES = MOVES | {"slice", "split", "cast", "identity", "dequantize_linear"}

_LOOK_UPS = frozenset(["gather", "index"])

_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1.0 / math.sqrt(x),
    "reciprocal": lambda x: 1.0 / x,
    "neg": lambda x: -x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
}


def number(net: Net, value: str, steps: int = _STEPS) -> float | None:
    """The number that every element of `value` has, None if it is not known.

    Sees through constants, fills, arithmetic on numbers, and the size of a last axis: a width of the model, which no input changes.
    """
    found = net.scalar(value)
    op = net.producer(value)
    if found is not None or op is None or steps == 0:
        return found
    if op.kind in ("full", "constant_of_shape"):
        filled = op.attributes.get("value")
        if filled is None:
            filled = next((net.scalar(name) for name in reversed(op.inputs) if name), None)
        return float(np.asarray(filled).reshape(-1)[0]) if filled is not None and np.size(filled) == 1 else None
    if value not in net.values or net.values[value].elements != 1:
        return number(net, op.inputs[0], steps - 1) if op.kind == "expand" else None
    if op.kind in ("gather", "slice"):
        return _last_size(net, op)
    if op.kind in _SAME:
        return number(net, op.inputs[0], steps - 1) if op.inputs else None
    function = _FUNCTIONS.get(op.kind)
    operands = [number(net, name, steps - 1) for name in op.inputs] if function else []
    if function is None or None in operands:
        return None
    try:
        return float(function(*operands))
    except (ValueError, ZeroDivisionError, OverflowError, TypeError):
        return None


def _last_size(net: Net, op: Op) -> float | None:
    """The size of the last axis, where `op` picks just that out of a shape."""
    source = net.producer(op.inputs[0])
    shape = net.shape(source.inputs[0]) if source is not None and source.kind == "shape" and source.inputs else None
    if not shape:
        return None
    if op.kind == "gather":
        index = net.scalar(op.inputs[1])
    else:
        starts = op.attributes.get("starts")
        index = starts[0] if starts and len(starts) == 1 else op.attributes.get("start")
    return float(shape[-1]) if index is not None and int(index) in (-1, len(shape) - 1) else None


class Stored(NamedTuple):
    """A constant as an op reads it: the `root` that holds the numbers, whether it is read swapped (last two axes), and the ops between."""

    root: str
    swapped: bool
    ops: tuple[str, ...]


def stored(net: Net, value: str) -> Stored | str | None:
    """The two-dimensional constant behind `value` through transposes, casts and identities; None if it is computed; a clause that
    says what stands in the way where it is a constant in another form."""
    swapped = False
    ops: list[str] = []
    if not constant_below(net, value, _MOVES | _LOOK_UPS):
        return None
    while True:
        op = net.producer(value)
        if net.values[value].constant or op is None:
            return Stored(value, swapped, tuple(reversed(ops)))
        if op.kind == "dequantize_linear":
            return "its weight is stored quantised already"
        if op.kind == "transpose" and list(op.attributes["perm"]) == [1, 0]:
            swapped = not swapped
        elif op.kind == "expand":
            return f"{op.kind} {op.id} repeats its weight for each row of a batch"
        elif op.kind not in ("cast", "identity") or "index" in op.attributes:
            return f"{op.kind} {op.id} takes its weight out of a constant of another shape"
        ops.append(op.id)
        value = op.inputs[0]


def constant_below(net: Net, value: str, through: frozenset[str] = _MOVES) -> bool:
    """Whether `value` is a constant, or comes from one through ops of the kinds `through` (their first operand)."""
    for _ in range(_STEPS):
        found, op = net.values.get(value), net.producer(value)
        if found is not None and found.constant:
            return True
        if op is None or op.kind not in through or not op.inputs:
            return False
        value = op.inputs[0]
    return False
