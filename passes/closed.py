"""Closed sets: the ops that may go when one value is computed in another way."""

from __future__ import annotations

from collections.abc import Sequence

from ..cost_model.net import Net, Op


def removable(net: Net, ops: Sequence[str], output: str) -> tuple[str, ...]:
    """Those of `ops` whose results nothing outside reads once `output` is replaced, in topological order.

    An op stays out of the set if a model output, or an op that stays out, reads it.
    """
    inside = dict.fromkeys(ops)
    order: list[str] = []
    seen: set[str] = set()

    def visit(op: Op) -> None:
        """Readers first, so that each op is judged after them. Sets are small and chains short."""
        seen.add(op.id)
        for name in op.outputs:
            for reader in net.consumers(name):
                if reader.id in inside and reader.id not in seen:
                    visit(reader)
        order.append(op.id)

    for op in inside:
        if op not in seen:
            visit(net.ops[op])
    kept: set[str] = set()
    for op in order:
        outputs = net.ops[op].outputs
        if output in outputs or not any(_outside(net, name, kept) for name in outputs):
            kept.add(op)
    return tuple(op for op in reversed(order) if op in kept)


def _outside(net: Net, name: str, kept: set[str]) -> bool:
    return any(reader.id not in kept for reader in net.consumers(name)) or name in net.outputs


def escape(net: Net, needed: Sequence[str], kept: Sequence[str]) -> str:
    """The end of a sentence that names who reads a needed op that is not in the closed set; "" if all are."""
    inside = set(kept)
    for op in needed:
        if op in inside:
            continue
        for name in net.ops[op].outputs:
            readers = [reader for reader in net.consumers(name) if reader.id not in inside and reader.id not in needed]
            reader = f"{readers[0].kind} {readers[0].id}" if readers else "the outside" if name in net.outputs else ""
            if reader:
                return f"shares {net.ops[op].kind} {op} with {reader}, so that it must be computed anyway."
    return ""
