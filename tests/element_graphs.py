"""Random nets of small elementwise ops, reductions and views, and the graph of their single elements, for the pebble game."""

import random
from collections.abc import Iterable
from math import prod

from szilard.cost_model.counts_traffic import ALIAS
from szilard.cost_model.net import Net, Op

from .priced_nets import Line, net_of

MOST_NODES = 12


def random_net(seed: int) -> Net:
    """A net of at most `MOST_NODES` elements, every other one of scalars alone: fan-out, broadcasts, sums, views, constants, and now and
    then an op that nobody needs."""
    rng = random.Random(seed)
    sizes: list[tuple[int, ...]] = [()] if seed % 2 else [(), (2,), (3,)]
    shapes = {f"x{i}": rng.choice(sizes) for i in range(rng.randint(1, 3))}
    lines: list[Line] = []
    nodes = sum(map(prod, shapes.values()))
    while nodes < MOST_NODES:
        kind = rng.choice(["exp", "tanh", "add", "mul", "sub", "where", "reduce_sum", "reshape"])
        inputs = [rng.choice(list(shapes)) for _ in range({"add": 2, "mul": 2, "sub": 2, "where": 3}.get(kind, 1))]
        shape = max(shapes[name] for name in inputs)
        if any(shapes[name] not in ((), shape) for name in inputs) or (kind in ("reduce_sum", "reshape") and not shape):
            continue
        made = {"reduce_sum": prod(shape) - 1, "reshape": 0}.get(kind, prod(shape))
        if nodes + made > MOST_NODES:
            break
        name = f"h{len(lines)}"
        shapes[name] = () if kind == "reduce_sum" else shape
        lines.append((kind, inputs, [name]))
        nodes += made
    read = {name for _, inputs, _ in lines for name in inputs}
    left = [written[0] for _, _, written in lines if written[0] not in read]
    outputs = rng.sample(left, rng.randint(max(1, len(left) - 1), len(left))) if left else []
    constants = [name for name in shapes if name.startswith("x") and rng.random() < 0.3]
    return net_of(shapes, lines, constants, outputs)


def element_graph(ops: Iterable[Op], net: Net) -> tuple[list[list[int]], list[int]]:
    """(parents of every element, elements that must be stored) of `ops` run as one: what they do not make is an input."""
    members = {op.id for op in ops}
    parents: list[list[int]] = []
    places: dict[str, list[int]] = {}

    def new(above: list[int]) -> int:
        parents.append(above)
        return len(parents) - 1

    def elements(name: str) -> list[int]:
        if name not in places:
            places[name] = [new([]) for _ in range(prod(net.shape(name) or ()))]
        return places[name]

    for op in net.ops.values():
        if op.kind in ALIAS:
            places[op.output] = elements(op.inputs[0])
        elif op.id in members:
            operands, size = [elements(name) for name in op.inputs], prod(net.shape(op.output) or ())
            if op.kind == "reduce_sum":
                total, *rest = operands[0]
                for element in rest:
                    total = new([total, element])
                places[op.output] = [total]
            else:
                places[op.output] = [new([operand[i % len(operand)] for operand in operands]) for i in range(size)]
    outside = [name for op in net.ops.values() if op.id not in members and op.kind not in ALIAS for name in op.inputs]
    kept = {element for name in (*net.outputs, *outside) for element in places.get(name, ())}
    return parents, sorted(kept)
