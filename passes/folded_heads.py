"""Attention whose heads are folded into the batch axis, [batch * heads, length, width] all the way: which values a view would have to show
as [batch, heads, length, width]."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..cost_model.net import Net, Op
from ..cost_model.sites import Miss
from .attention_heads import kv_heads_of
from .attention_masks import fits, stated
from .attention_walk import Reach
from .axes import Dimension, Layout, Part, digits
from .closed import escape, removable
from .find_attention import Walk, walk

FOLDED = 3
"""Axes of a value with batch and heads in one."""


@dataclass(frozen=True)
class Folded:
    """The softmax of id `softmax` is attention with `heads` heads once `values`, each [batch * heads, rows, columns], are seen as
    [batch, heads, rows, columns]. That count is the quotient of two sizes, those of the (value, axis) in `known_by`."""

    softmax: str
    heads: int
    values: tuple[str, ...]
    known_by: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Role:
    """An operand of the two products, or their result: the values that may hold it, best last, the layouts of its last two axes, and of
    the one that heads are cut from."""

    reaches: tuple[Reach, ...]
    tails: tuple[Layout, ...]
    width: Dimension

    def apart(self, lead: Layout) -> bool:
        """Whether a value holds it with separate axes for batch and heads."""
        heads = math.prod(part.size for part in lead[1])
        return any(
            reach.layout[2:] in self.tails and kv_heads_of(lead, heads, reach.layout) is not None
            for reach in self.reaches
            if len(reach.layout) == FOLDED + 1
        )

    def folded(self, total: int) -> str:
        """The value that holds it with both in one axis, "" if none does."""
        wanted = [(digits("x", 1, total), *tail) for tail in self.tails]
        return next((reach.value for reach in reversed(self.reaches) if reach.layout in wanted), "")

    def split(self) -> tuple[int, tuple[tuple[str, int], ...]] | None:
        """(heads, the sizes that say so), from the first value with an axis that runs over the innermost part of the folded one, and then
        the width."""
        widths = [(reach.value, reach.layout.index(self.width)) for reach in self.reaches if self.width in reach.layout]
        for reach in self.reaches if widths else ():
            for axis, dimension in enumerate(reach.layout):
                head = dimension[-2] if len(dimension) > 1 and dimension[-1:] == self.width else Part("", 0, 0)
                if head.name == "x" and head.stride == 1:
                    return head.size, ((reach.value, axis), widths[0])
        return None


def folded_attentions(net: Net) -> tuple[Folded, ...]:
    """In topological order. An attention that is found as it is, is refused for another reason, or whose number of heads no size tells, is
    not among them."""
    found = (_folded(net, op) for op in net.ops.values() if op.kind == "softmax")
    return tuple(each for each in found if each is not None)


def _folded(net: Net, softmax: Op) -> Folded | None:
    around = walk(net, softmax)
    if isinstance(around, Miss):
        return None
    roles = _roles(net, around)
    split = next((found for role in roles if (found := role.split())), None)
    if split is None:
        return None
    total = math.prod(part.size for dimension in around.scores.layout[:-2] for part in dimension)
    heads, known_by = split
    lead = (digits("x", heads, total // heads), digits("x", 1, heads))
    waiting = [role for role in roles if not role.apart(lead)]
    values = [role.folded(total) for role in waiting]
    if not values or "" in values or not _is_whole(net, around, lead):
        return None
    return Folded(softmax.id, heads, tuple(dict.fromkeys(values)), known_by)


def _roles(net: Net, around: Walk) -> tuple[_Role, ...]:
    n, s, d, e = around.axes
    dtype = net.values[around.out[0].value].dtype
    v = [reach for reach in around.v if reach.scale == 1.0]
    wanted = (
        (around.q, ((n, d),), d),
        (around.k, ((s, d), (d, s)), d),
        (v, ((s, e),), e),
        (around.out[::-1], ((n, e),), e),
    )
    return tuple(
        _Role(tuple(reach for reach in reaches if net.values[reach.value].dtype == dtype), tails, width)
        for reaches, tails, width in wanted
    )


def _is_whole(net: Net, around: Walk, lead: Layout) -> bool:
    """Whether nothing else stands in the way: masks and sink can be told in four axes, and no value in between is read elsewhere."""
    n, s, _, _ = around.axes
    scores, weights = around.scores, around.weights
    if stated(net, scores.masks, (*lead, n, s)) is None:
        return False
    if scores.sink and fits(net, scores.sink.value, scores.sink.layout, (*lead, n, ())) is None:
        return False
    core = (*scores.ops, *weights.ops, weights.product.id)
    return not escape(net, core, removable(net, core, weights.product.output))
