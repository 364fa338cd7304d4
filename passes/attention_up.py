"""The walk up from a softmax, through scales, masks and views, to the product of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import Miss
from .attention_masks import Mask, added_to_low
from .attention_walk import STEPS, factor_of, miss, transparent
from .axes import MOVES, Layout, above, aligned, whole
from .constants import FLOATS, number

MASKED = -1e4
"""A score at or below this gives a weight of exactly zero in float32 (exp(-104) is already below its smallest number)."""


MOST_MASKS = 4
"""Either operand of an add may be the scores: so many adds, and no more, keep the number of ways up small."""


@dataclass(frozen=True)
class Sink:
    """A column beside the scores, of that layout; `first` or behind the last key."""

    value: str
    layout: Layout
    first: bool


@dataclass(frozen=True)
class Scores:
    """The way up: at `value`, of `layout`, with what was met since the softmax; `masks` and `ops` from the softmax upwards."""

    value: str
    layout: Layout
    scale: float = 1.0
    softcap: float = 0.0
    masks: tuple[Mask, ...] = ()
    sink: Sink | None = None
    ops: tuple[str, ...] = ()

    def step(self, op: Op, operand: int = 0, **changes: object) -> Scores:
        return replace(self, value=op.inputs[operand], ops=(*self.ops, op.id), **changes)  # type: ignore[arg-type]


def up(net: Net, at: Scores, softmax: Op) -> tuple[Scores, Op] | Miss:
    """From the operand of a softmax to the matmul that made the scores. The `Scores` given back are at the output of that matmul."""
    while len(at.ops) < STEPS:
        op = net.producer(at.value)
        if op is None:
            return miss(softmax, "has no matrix product above it, so that there are no queries and keys to read.")
        after: Scores | Miss | tuple[Scores, Op]
        if op.kind == "matmul":
            return _product(net, at, op)
        if op.kind in MOVES:
            layout = above(op, net, at.layout)
            after = miss(op, "above the softmax changes the axes in a way the walk cannot follow.")
            repeats = op.kind in ("expand", "tile") and net.shape(op.inputs[0]) != net.shape(op.output)
            after = after if layout is None or repeats else at.step(op, layout=layout)
        elif transparent(net, op) or (op.kind == "cast" and net.values[op.inputs[0]].dtype in FLOATS):
            after = at.step(op)
        elif op.kind in ("mul", "div"):
            after = _scaled(net, at, op)
        elif op.kind == "tanh" and not at.softcap and at.scale > 0:
            after = at.step(op, softcap=at.scale, scale=1.0)
        elif op.kind == "sub" and (top := _own_maximum(net, op)):
            after = replace(at.step(op), ops=(*at.ops, op.id, *top))
        elif op.kind in ("add", "sub"):
            after = _added(net, at, op, softmax)
        elif op.kind == "where":
            after = _chosen(net, at, op)
        elif op.kind == "concat":
            after = _beside_sink(net, at, op)
        else:
            source = net.producer(op.inputs[0]) if op.kind == "identity" and op.inputs else None
            after = miss(
                source or op, "stands between the softmax and a matrix product, and is no scale, mask, view or softcap."
            )
        if not isinstance(after, Scores):
            return after
        at = after
    return miss(softmax, f"is more than {STEPS} ops below a matrix product.")


def _product(net: Net, at: Scores, op: Op) -> tuple[Scores, Op] | Miss:
    """The matmul itself: its alpha is a scale, its third operand (baddbmm) a mask."""
    beta = op.attributes.get("beta", 1.0)
    if len(op.inputs) > 2 and op.inputs[2] and beta:
        masked = _masked(net, at, op, op.inputs[2], "additive", factor=beta * at.scale)
        if isinstance(masked, Miss):
            return masked
        at = masked
    low = added_to_low(at.masks)
    if low is not None:
        return miss(op, f"has scores to which {low.value} is added after a number took the place of some of them.")
    return replace(at, scale=at.scale * op.attributes.get("alpha", 1.0), ops=(*at.ops, op.id)), op


def _scaled(net: Net, at: Scores, op: Op) -> Scores | Miss:
    factor = factor_of(net, op)
    if factor is None:
        return miss(op, "scales the scores by something that is not one constant number.")
    return at.step(op, factor[0], scale=at.scale * factor[1])


def _own_maximum(net: Net, op: Op) -> tuple[str, ...]:
    """The ops of the max in x - max(x) along the last axis, which a softmax does not see; () for any other sub."""
    top = net.producer(op.inputs[1])
    ops = (top.id,) if top else ()
    if top is not None and top.kind == "identity" and top.attributes.get("index") == 0:
        top = net.producer(top.inputs[0])
        ops = (*ops, top.id) if top else ()
    own = top is not None and top.kind == "reduce_max" and top.inputs[0] == op.inputs[0] and top.attributes.get("axes") == [-1]
    return ops if own else ()


def _added(net: Net, at: Scores, op: Op, softmax: Op) -> tuple[Scores, Op] | Miss:
    """An added mask; either operand may be the scores, and the one that leads to a matrix product is."""
    if len(op.inputs) != 2:
        return miss(op, "adds more than one mask to the scores at once.")
    sign = float(op.attributes.get("alpha", 1.0)) * (-1.0 if op.kind == "sub" else 1.0)
    refused: list[Miss] = []
    for scores, mask in ((0, 1), (1, 0)):
        if net.shape(op.inputs[scores]) != net.shape(op.output) or net.values[op.inputs[scores]].constant:
            continue
        before = at if scores == 0 else replace(at, scale=at.scale * sign)
        masked = _masked(net, at, op, op.inputs[mask], "additive", factor=at.scale * (sign if mask else 1.0))
        if isinstance(masked, Scores):
            found = up(net, replace(before, masks=masked.masks).step(op, scores), softmax)
            if not isinstance(found, Miss):
                return found
            masked = found
        refused.append(masked)
    return (
        refused[0] if refused else miss(op, "above the softmax adds two operands of which neither has the shape of the scores.")
    )


def _masked(net: Net, at: Scores, op: Op, value: str, kind: str, factor: float = 1.0, fill: float = 0.0) -> Scores | Miss:
    if at.softcap:
        return miss(op, "masks the scores before the softcap, attention kernels after it.")
    if len(at.masks) == MOST_MASKS:
        return miss(op, f"is one mask more on the same scores than the {MOST_MASKS} that are followed.")
    shape, full = net.shape(value), net.shape(op.output)
    layout = None if shape is None or full is None else aligned(at.layout, full, shape)
    if layout is None:
        return miss(op, "has a mask whose shape does not broadcast to the scores.")
    return replace(at, masks=(*at.masks, Mask(value, kind, layout, factor, fill)))


def _chosen(net: Net, at: Scores, op: Op) -> Scores | Miss:
    """where(keep, scores, -inf) and where(leave out, -inf, scores)."""
    condition, if_true, if_false = op.inputs
    for scores, fill, kind in ((1, if_false, "boolean"), (2, if_true, "boolean_inverted")):
        filled = number(net, fill)
        if filled is None or net.shape(op.inputs[scores]) != net.shape(op.output):
            continue
        if filled * at.scale > MASKED:
            return miss(op, f"puts {filled:g} in place of some scores, which is too large to be a mask.")
        inverse = net.producer(condition)
        if kind == "boolean_inverted" and inverse is not None and inverse.kind == "not":
            condition, kind = inverse.inputs[0], "boolean"
        masked = _masked(net, at, op, condition, kind, fill=filled)
        return masked if isinstance(masked, Miss) else masked.step(op, scores)
    return miss(op, "above the softmax chooses between two computed values.")


def _beside_sink(net: Net, at: Scores, op: Op) -> Scores | Miss:
    """concat(scores, sink) along the keys, where the sink is one column."""
    shapes = [net.shape(name) for name in op.inputs]
    full = net.shape(op.output)
    columns = [shape[-1] if shape else 0 for shape in shapes]
    if full is None or op.attributes.get("axis") not in (-1, len(full) - 1) or len(columns) != 2 or 1 not in columns or at.sink:
        return miss(op, "adds columns to the scores before the softmax that are no attention sink.")
    if at.scale != 1.0 or at.softcap or at.masks or at.layout[-1] != whole("s", full[-1]):
        return miss(op, "adds an attention sink to the scores that is scaled or masked afterwards.")
    place = columns.index(1, 1 if columns[1] == 1 else 0)
    lead = aligned(at.layout[:-1], full[:-1], (shapes[place] or ())[:-1])
    if lead is None:
        return miss(op, "adds an attention sink whose shape does not broadcast to the scores.")
    layout = (*at.layout[:-1], whole("s", full[-1] - 1))
    return at.step(op, 1 - place, layout=layout, sink=Sink(op.inputs[place], (*lead, ()), place == 0))
