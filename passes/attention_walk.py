"""What the walks of attention share: where a walk stands, how a refusal reads, and the climb from an operand of a matmul."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..cost_model.net import Net, Op
from ..cost_model.sites import Miss
from .axes import MOVES, Layout, above
from .constants import FLOATS, number

KIND = "attention"

STEPS = 64
"""Longest walk: it keeps the time linear, and real spellings need fewer than twenty ops."""


@dataclass(frozen=True)
class Reach:
    """A value on the way up from an operand of a matmul; the operand is `value` times `scale`, moved about as `layout` says."""

    value: str
    layout: Layout
    scale: float
    ops: tuple[str, ...]


def miss(op: Op, sentence: str) -> Miss:
    """A refusal at `op`; `sentence` goes on after its kind and id."""
    return Miss(op.id, KIND, f"{op.kind.removeprefix('other:')} {op.id} {sentence}")


def transparent(net: Net, op: Op) -> bool:
    """Whether the first output of `op` is its first operand: an identity, or a dropout that is switched off."""
    if op.kind == "dropout":
        switch = op.inputs[2] if len(op.inputs) > 2 else ""
        return not op.attributes.get("training", False) and (not switch or net.scalar(switch) == 0.0)
    return op.kind == "identity" and "index" not in op.attributes


def climb(net: Net, value: str, layout: Layout, moves_only: bool = False) -> list[Reach]:
    """`value` and the values above it that hold the same numbers up to a constant factor, nearest first.

    Goes up through moves, scalings by a number and widening casts (`moves_only`: through moves alone).
    """
    found = [Reach(value, layout, 1.0, ())]
    while len(found) < STEPS:
        last = found[-1]
        op = net.producer(last.value)
        if op is None or not op.inputs:
            break
        after: Layout | None = last.layout
        operand, scale = 0, last.scale
        if op.kind in MOVES:
            after = above(op, net, last.layout)
        elif not transparent(net, op):
            factor = None if moves_only or op.kind not in ("mul", "div") else factor_of(net, op)
            if factor is not None:
                operand, scale = factor[0], scale * factor[1]
            elif moves_only or op.kind != "cast" or not _widens(net, op):
                break
        if after is None:
            break
        found.append(Reach(op.inputs[operand], after, scale, (*last.ops, op.id)))
    return found


def _widens(net: Net, op: Op) -> bool:
    before, after = (net.values[name].dtype or "" for name in (op.inputs[0], op.output))
    return FLOATS.get(before, 9) <= FLOATS.get(after, 0)


def factor_of(net: Net, op: Op) -> tuple[int, float] | None:
    """(operand that is scaled, factor) of a mul or div by a number; None for any other."""
    for operand, other in ((0, 1), (1, 0)):
        if operand == 1 and op.kind == "div":
            break
        factor = number(net, op.inputs[other])
        if factor is not None and net.shape(op.inputs[operand]) == net.shape(op.output) and math.isfinite(factor):
            if op.kind == "mul":
                return operand, factor
            return (operand, 1.0 / factor) if factor else None
    return None
