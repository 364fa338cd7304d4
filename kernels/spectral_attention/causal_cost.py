"""What causal spectral attention costs: its ONNX form with every step of the Scan written out, for a cost model to price."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ...cost_model.net import Net
from ...cost_model.view_onnx import view_onnx
from .causal_onnx import causal_nodes
from .causal_prepare import CausalPrepared
from .onnx_builder import Builder

OPSET = 18


class _Unrolled(Builder):
    """Writes the steps of a Scan one behind the other."""

    steps = 0

    def scan(self, over: Sequence[tuple[ir.Value, ir.DataType]], step: Callable[..., ir.Value], rank: int) -> ir.Value:
        """See `Builder.scan`."""
        found = [
            self.unsqueeze(step(self, *(self("Gather", value, self.number(index), axis=0) for value, _ in over)), 0)
            for index in range(self.steps)
        ]
        return found[0] if len(found) == 1 else self("Concat", *found, axis=0)


def causal_net(prepared: CausalPrepared, batch: int, kv_heads: int, length: int, width: int) -> Net:
    """The operators that run for `length` queries and keys of `width`, each with the shapes it has in its step.

    A step reads more of the past the later it is, so the first one times their number, as a Scan is counted elsewhere, is too little.
    2,500 operators at 2,048 tokens with nine heads, in some seconds.
    """
    builder = _Unrolled("causal")
    builder.steps = prepared.layout.steps(length)
    heads = {"q": len(prepared.budgets), "k": kv_heads, "v": kv_heads}
    shapes = {name: (batch, count, length, width) for name, count in heads.items()}
    query, key, value = inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for name, shape in shapes.items()
    ]
    body = causal_nodes(query, key, value, prepared, kv_heads, builder, OPSET)
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": OPSET}, name="causal"
    )
    return view_onnx(ir.Model(graph, ir_version=8), shapes)
