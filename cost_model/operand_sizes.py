"""Sizes of the operands of products, attention and einsum, read once for flops and for traffic."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .net import Net, Op

Shape = tuple[int, ...]


class Unknown(Exception):
    """A shape, dtype or attribute that the count needs is missing. Caught by `count`, which then marks the op as not known."""


def shape_of(net: Net, name: str) -> Shape:
    """The shape of a value. Raises Unknown."""
    shape = net.shape(name) if name else None
    if shape is None:
        raise Unknown(f"the shape of {name!r} is not known")
    return shape


def operand(op: Op, position: int) -> str:
    """The name of an operand that must be there. Raises Unknown."""
    if position >= len(op.inputs) or not op.inputs[position]:
        raise Unknown(f"operand {position} is missing")
    return op.inputs[position]


@dataclass(frozen=True)
class AttentionSizes:
    """Attention of `queries` to `keys` in `heads`, of which several may share one of `kv_heads`; widths of a head."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    depth: int
    value_depth: int

    @property
    def scores(self) -> float:
        """Number of scores, masked ones included."""
        return float(self.batch * self.heads * self.queries * self.keys)


def attention_sizes(op: Op, net: Net) -> AttentionSizes:
    """The sizes of an attention op with operands [B, H, N, D], or [B, N, H D] and an attribute "heads". Raises Unknown."""
    q, k, v = (shape_of(net, operand(op, position)) for position in range(3))
    if len(q) == 4 and len(k) == 4 and len(v) == 4:
        return AttentionSizes(q[0], q[1], k[1], q[2], k[2], q[3], v[3])
    if len(q) == 3 and len(k) == 3 and len(v) == 3 and op.attributes.get("heads"):
        heads = int(op.attributes["heads"])
        kv_heads = int(op.attributes.get("kv_heads") or heads)
        return AttentionSizes(q[0], heads, kv_heads, q[1], k[1], q[2] // heads, v[2] // kv_heads)
    raise Unknown("the layout of the attention operands")


@dataclass(frozen=True)
class EinsumSizes:
    """The indices of each operand and of the result, and the length of every index."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    lengths: dict[str, int]

    def size(self, indices: set[str]) -> int:
        """The product of the lengths of some indices."""
        return prod(self.lengths[index] for index in indices)


def einsum_sizes(op: Op, net: Net) -> EinsumSizes:
    """The indices of an einsum, "..." spelled out and counted from the last axis. Raises Unknown."""
    equation = str(op.attributes.get("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    shapes = [shape_of(net, name) for name in op.inputs if name]
    if not equation or len(terms) != len(shapes):
        raise Unknown("the equation of an einsum")
    lengths: dict[str, int] = {}
    operands = []
    for term, shape in zip(terms, shapes, strict=True):
        middle = len(shape) - len(term.replace("...", ""))
        if middle < 0 or (middle and "..." not in term):
            raise Unknown("the equation of an einsum")
        operands.append(_indices(term, middle))
        for label, length in zip(operands[-1], shape, strict=True):
            lengths[label] = max(length, lengths.get(label, 1))
    dots = tuple(sorted((label for label in lengths if len(label) > 1), key=lambda label: -int(label[3:])))
    if arrow:
        return EinsumSizes(tuple(operands), _indices(right, len(dots)), lengths)
    # Without an arrow the result has the indices that occur once, in the order of the alphabet.
    once = tuple(sorted(label for label in lengths if len(label) == 1 and left.count(label) == 1))
    return EinsumSizes(tuple(operands), dots + once, lengths)


def _indices(term: str, middle: int) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    return (*before, *(f"...{middle - i}" for i in range(middle if dots else 0)), *after)
