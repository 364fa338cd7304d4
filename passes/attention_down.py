"""The walk down from a softmax, through guards and views, to the product of weights and values."""

from __future__ import annotations

from dataclasses import dataclass

from ..cost_model.net import Net, Op
from ..cost_model.sites import Miss
from .attention_walk import STEPS, Reach, miss, transparent
from .axes import MOVES, Layout, below, whole
from .constants import FLOATS, number

_GUARDS = frozenset(["isnan", "isinf", "eq", "ne", "not", "and", "or", "reduce_any", "reduce_all", "identity", "cast"])


@dataclass(frozen=True)
class Weights:
    """The way down: the matmul with the values, the layout of its first operand, the ops passed, and the column cut off ("" if none)."""

    product: Op
    layout: Layout
    ops: tuple[str, ...]
    cut: str = ""


def down(net: Net, softmax: Op, layout: Layout, scores: frozenset[str]) -> Weights | Miss:
    """From a softmax to the matmul that its weights multiply. `scores` are the values between the first matmul and the softmax."""
    value, cut = softmax.output, ""
    ops: tuple[str, ...] = (softmax.id,)
    while len(ops) < STEPS:
        readers = net.consumers(value)
        guard = _guard(net, value, readers, scores | {value})
        if guard:
            ops, value = (*ops, *(op.id for op in guard)), guard[-1].output
            continue
        if value in net.outputs:
            return miss(softmax, "gives an output of the model, so that it must be computed as it is.")
        if not readers:
            return miss(softmax, "is read by nothing.")
        if len(readers) > 1:
            names = " and ".join(f"{op.kind} {op.id}" for op in readers[:3])
            return miss(softmax, f"has weights that are read more than once, by {names}, so they must be computed.")
        op = readers[0]
        if op.kind == "matmul":
            return _second_product(op, value, layout, ops, cut)
        if transparent(net, op) or (op.kind == "cast" and op.attributes.get("to") in FLOATS):
            pass
        elif op.kind in MOVES and op.inputs[0] == value:
            moved = below(op, net, layout)
            if moved is None:
                return miss(op, "below the softmax changes the axes in a way the walk cannot follow.")
            layout = moved
        elif op.kind == "slice" and not cut and (cut := _cut(net, op)):
            layout = (*layout[:-1], whole("s", (net.shape(op.output) or (0,))[-1]))
        else:
            return miss(op, _between(op))
        ops, value = (*ops, op.id), op.output
    return miss(softmax, f"is more than {STEPS} ops above a matrix product.")


def _between(op: Op) -> str:
    if op.kind == "dropout":
        return "drops weights at random: the model was traced in training mode; trace it in evaluation mode."
    if op.kind == "slice":
        return "cuts off more of the weights than one column at an end, an attention sink."
    if op.kind in ("mul", "div"):
        return "changes the weights after the softmax."
    return "reads the softmax and is no matrix product with values."


def _cut(net: Net, op: Op) -> str:
    """ "first" or "last", the one column that a slice cuts off along the last axis; "" if it cuts off anything else."""
    before, after = net.shape(op.inputs[0]), net.shape(op.output)
    if not before or not after or before[:-1] != after[:-1] or before[-1] != after[-1] + 1 or op.attributes.get("step") != 1:
        return ""
    start = op.attributes.get("start")
    return {0: "last", 1: "first"}.get(start, "") if isinstance(start, int) else ""


def _second_product(op: Op, value: str, layout: Layout, ops: tuple[str, ...], cut: str) -> Weights | Miss:
    if op.inputs[0] != value or op.inputs[1] == value or op.attributes.get("transpose_a"):
        return miss(op, "multiplies the softmax from the right or transposed: rows of weights must meet rows of values.")
    if len(op.inputs) > 2 and op.inputs[2] and op.attributes.get("beta", 1.0):
        return miss(op, "adds a third operand to the product of weights and values.")
    if op.attributes.get("alpha", 1.0) != 1.0:
        return miss(op, "scales the product of weights and values.")
    return Weights(op, layout, ops, cut)


def _guard(net: Net, value: str, readers: tuple[Op, ...], known: frozenset[str]) -> list[Op]:
    """The ops of where(broken(scores or weights), 0, weights), the where last; [] if that is not what reads `value`."""
    choice = next(
        (op for op in readers if op.kind == "where" and op.inputs[2] == value and number(net, op.inputs[1]) == 0.0), None
    )
    if choice is None:
        return []
    found, waiting = [choice], [choice.inputs[0]]
    while waiting and len(found) < STEPS:
        name = waiting.pop()
        op = net.producer(name)
        if name in known or (op is None and name in net.values and net.values[name].constant):
            continue
        if op is None or op.kind not in _GUARDS:
            return []
        found.append(op)
        waiting += [n for n in op.inputs if n]
    unique = list({op.id: op for op in reversed(found)}.values())
    return unique if all(op in unique for op in readers) and value not in net.outputs else []


def descend(net: Net, value: str, layout: Layout) -> list[Reach]:
    """`value` and the values below it that are nothing but views of it and its only use, nearest first."""
    found = [Reach(value, layout, 1.0, ())]
    while len(found) < STEPS:
        last = found[-1]
        readers = net.consumers(last.value)
        if len(readers) != 1 or last.value in net.outputs or readers[0].inputs[0] != last.value:
            break
        op = readers[0]
        after = below(op, net, last.layout) if op.kind in MOVES else last.layout if transparent(net, op) else None
        if after is None:
            break
        found.append(Reach(op.output, after, 1.0, (*last.ops, op.id)))
    return found
