"""Named axes: which part of which logical index each dimension of a value holds, followed through views, up and down a net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..cost_model.net import Net, Op


class Part(NamedTuple):
    """The digit floor(i / stride) mod size of the index i of the logical axis `name`."""

    name: str
    stride: int
    size: int


Dimension = tuple[Part, ...]
"""What one dimension runs over, outermost part first; () for a dimension of one element."""

Layout = tuple[Dimension, ...]

MOVES = frozenset(["reshape", "squeeze", "unsqueeze", "transpose", "expand", "tile"])
"""Kinds that only rearrange or repeat elements."""


def whole(name: str, size: int) -> Dimension:
    """A dimension that runs over all of the axis `name`."""
    return digits(name, 1, size)


def digits(name: str, stride: int, size: int) -> Dimension:
    """A dimension that runs over one digit of the axis `name`."""
    return (Part(name, stride, size),) if size > 1 else ()


def split(name: str, sizes: Sequence[int]) -> Layout:
    """Dimensions of the given sizes that together run over the axis `name`, outermost first."""
    return tuple(digits(name, math.prod(sizes[index + 1 :]), size) for index, size in enumerate(sizes))


def regroup(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout after a reshape to `shape`; None if a dimension would hold something that is no product of digits."""
    waiting = [part for dimension in reversed(layout) for part in reversed(dimension)]
    found: list[Dimension] = []
    for size in shape:
        parts: list[Part] = []
        left = size
        while left > 1:
            if not waiting:
                return None
            part = waiting.pop()
            if left % part.size and part.size % left == 0:
                rest = part.size // left
                waiting.append(Part(part.name, part.stride, rest))
                part = Part(part.name, part.stride * rest, left)
            if left % part.size:
                return None
            left //= part.size
            parts.append(part)
        found.append(_joined(parts))
    return None if waiting else tuple(found)


def _joined(parts: Sequence[Part]) -> Dimension:
    """Neighbours that are one longer digit of the same axis, written as one part."""
    found: list[Part] = []
    for part in parts:
        if found and found[-1].name == part.name and found[-1].stride == part.stride * part.size:
            found[-1] = Part(part.name, part.stride, found[-1].size * part.size)
        else:
            found.append(part)
    return tuple(found)


def aligned(layout: Layout, full: Sequence[int], shape: Sequence[int]) -> Layout | None:
    """The layout of an operand of `shape` that is broadcast to `full`, whose layout is known; None if it does not broadcast.

    A dimension of one element where `full` has more holds nothing: the value is the same along that digit.
    """
    if len(shape) > len(full):
        return None
    found: list[Dimension] = []
    for dimension, large, small in zip(layout[len(full) - len(shape) :], full[len(full) - len(shape) :], shape, strict=True):
        if small not in (1, large):
            return None
        found.append(dimension if small == large else ())
    return tuple(found)


def above(op: Op, net: Net, layout: Layout) -> Layout | None:
    """The layout of the first operand of a move, from that of its output; None if it cannot be told."""
    before, after = net.shape(op.inputs[0]), net.shape(op.output)
    if before is None or after is None:
        return None
    if op.kind == "transpose":
        found: list[Dimension] = [()] * len(before)
        for place, axis in enumerate(op.attributes["perm"]):
            found[axis] = layout[place]
        return tuple(found)
    if op.kind in ("expand", "tile"):
        return aligned(layout, after, before)
    return regroup(layout, before)


def below(op: Op, net: Net, layout: Layout) -> Layout | None:
    """The layout of the output of a move that repeats nothing, from that of its first operand; None if it cannot be told."""
    before, after = net.shape(op.inputs[0]), net.shape(op.output)
    if before is None or after is None:
        return None
    if op.kind == "transpose":
        return tuple(layout[axis] for axis in op.attributes["perm"])
    return regroup(layout, after) if math.prod(before) == math.prod(after) else None
