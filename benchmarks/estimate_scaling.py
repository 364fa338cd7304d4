"""Seconds to estimate generated ONNX graphs of three sizes: growth must be linear, and 50,000 nodes take under 15 s.

The sizes take turns, and each has the fewest seconds of its turns: what else the machine does can only add to them.

Run it as `python -P -m szilard.benchmarks.estimate_scaling`.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..cost_model.device import load_device
from ..cost_model.price import price_net
from ..cost_model.view_onnx import view_onnx
from ..rewriter.estimate import estimate

SIZES = (12_500, 25_000, 50_000)
TURNS = 3
LIMIT = 15.0
GROWTH = 2.2
"""Most that the seconds may grow by when the nodes double."""

WIDTH = 8
LINK = ("MatMul", "Add", "Mul", "Sigmoid", "Mul")


def chain(nodes: int) -> ir.Model:
    """A chain of MatMul, Add, Mul, Sigmoid, Mul over [batch, WIDTH], with weights of its own in each link."""
    generator = np.random.default_rng(0)
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["batch", WIDTH])
    made: list[ir.Node] = []
    weights: list[ir.Value] = []
    last = x
    for number in range(nodes):
        operator = LINK[number % len(LINK)]
        operands = [last]
        if operator != "Sigmoid":
            shape = (WIDTH, WIDTH) if operator == "MatMul" else (WIDTH,)
            tensor = ir.tensor(generator.standard_normal(shape).astype(np.float32) * 0.1, name=f"weight_{number}")
            weights.append(
                ir.Value(name=tensor.name, shape=ir.Shape(shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
            )
            operands.append(weights[-1])
        made.append(ir.node(operator, operands, name=f"node_{number}"))
        last = made[-1].outputs[0]
        last.name = f"value_{number}"
    last.type, last.shape = x.type, x.shape
    graph = ir.Graph([x], [last], nodes=made, initializers=weights, opset_imports={"": 20}, name="chain")
    return ir.Model(graph, ir_version=10)


def seconds(nodes: int) -> tuple[float, float]:
    """(seconds to estimate a chain of `nodes` nodes from its file as the command does, of which to view and price it)."""
    model, device = chain(nodes), load_device("h200")
    with tempfile.TemporaryDirectory(prefix="szilard-") as folder:
        path = Path(folder) / "chain.onnx"
        ir.save(model, path)
        start = time.perf_counter()
        result = estimate(path, target="h200")
        whole = time.perf_counter() - start
    if len(result["ops"]) != nodes or result["at_least"]:
        raise SystemExit(f"{nodes} nodes: {len(result['ops'])} were priced, unpriced: {list(result['unpriced'])[:3]}.")
    start = time.perf_counter()
    price_net(view_onnx(model, {"x": (4, WIDTH)}), device)
    return whole, time.perf_counter() - start


def main() -> None:
    """Print one line for each size, then the growth of the time for each doubling; exit 1 when over a limit."""
    seconds(100)  # imports
    turns = [[seconds(nodes) for nodes in SIZES] for _ in range(TURNS)]
    totals = [min(whole for whole, _ in turn) for turn in zip(*turns, strict=True)]
    parts = [min(part for _, part in turn) for turn in zip(*turns, strict=True)]
    print(f"{'nodes':>8} {'estimate s':>12} {'view+price s':>14} {'us/node':>8}   fewest of {TURNS} turns")
    for nodes, whole, part in zip(SIZES, totals, parts, strict=True):
        print(f"{nodes:>8} {whole:>12.2f} {part:>14.2f} {whole / nodes * 1e6:>8.1f}")
    growth = [after / before for before, after in itertools.pairwise(totals)]
    print("time for twice the nodes: " + ", ".join(f"{ratio:.2f} x" for ratio in growth) + " (linear is 2)")
    if totals[-1] > LIMIT:
        raise SystemExit(f"{SIZES[-1]} nodes took {totals[-1]:.1f} s, over the limit of {LIMIT:.0f} s.")
    if max(growth) > GROWTH:
        raise SystemExit(f"Twice the nodes took {max(growth):.2f} times as long, over the limit of {GROWTH:g}.")


if __name__ == "__main__":
    main()
