"""The formats with inputs in float16 as nodes for onnxruntime's CUDA provider, built with onnx_ir. The CPU provider runs them too."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .formats import Prepared
from .half_formats import HALF_BITS, spare_columns, to_half
from .onnx_body import RUNTIME_DOMAIN, Body, Maker


def half_nodes(prepared: Prepared, x: ir.Value, dtype: str, name: str, halves: MutableMapping[ir.Value, ir.Value]) -> Body:
    """y = x W + b for x [..., K] of `dtype`, "float32" or "float16", which y has too: products in float16, between two Casts if x is in
    float32. `halves` are values of the graph in float16, so that one that several layers read is cast once; it learns x.

    The weight is that of a MatMul, or of a MatMulNBits of as many columns as whole-tile kernels take at a time, and a Slice behind it. The
    bias is an Add, and none if it is zero: builds of onnxruntime differ in what MatMulNBits does with one."""
    made = HalfMaker(name)
    source = x
    if dtype == "float32":
        if x not in halves:
            halves[x] = made.half("Cast", [x], "x", x.shape, to=ir.DataType.FLOAT16.value)
        source = halves[x]
    shape = made.widened(x, prepared.out_features)
    if prepared.base in HALF_BITS:
        output = _few_bits(made, prepared, source, shape)
    else:
        output = made.half("MatMul", [source, made.constant("weight", prepared.tensors["weight"])], "product", shape)
    if np.any(prepared.tensors["bias"]):
        output = made.half("Add", [output, made.constant("bias", to_half(prepared.tensors["bias"]))], "sum", shape)
    if dtype == "float32":
        output = made.float("Cast", [output], "y", shape, to=ir.DataType.FLOAT.value)
    return Body(made.nodes, output, made.initializers)


@dataclass
class HalfMaker(Maker):
    """As `Maker`, with nodes whose results are in float16."""

    def half(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        role: str,
        shape: ir.Shape | None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """The result of a new node."""
        label = f"{self.name}_{role}"
        output = ir.Value(name=label, shape=shape, type=ir.TensorType(ir.DataType.FLOAT16))
        self.nodes.append(ir.node(kind, inputs, attributes, domain=domain, outputs=[output], name=label))
        return output

    def widened(self, x: ir.Value, features: int) -> ir.Shape | None:
        """The shape of x with another last axis."""
        return None if x.shape is None else ir.Shape([*x.shape[:-1], features])


def _few_bits(made: HalfMaker, prepared: Prepared, x: ir.Value, shape: ir.Shape | None) -> ir.Value:
    bits, columns = int(prepared.scalars["bits"]), prepared.out_features
    spare = spare_columns(bits, columns)
    # Columns whose scales are zero give zeros.
    weight = made.constant("weight", np.pad(prepared.tensors["weight"], ((0, spare), (0, 0), (0, 0))))
    scale = made.constant("weight_scale", np.pad(prepared.tensors["weight_scale"], ((0, spare), (0, 0))))
    wide = made.half(
        "MatMulNBits",
        [x, weight, scale],
        "product",
        made.widened(x, columns + spare),
        RUNTIME_DOMAIN,
        K=prepared.in_features,
        N=columns + spare,
        bits=bits,
        block_size=int(prepared.scalars["block"]),
    )
    if not spare:
        return wide
    ends = [made.constant(role, np.array([number], np.int64)) for role, number in (("from", 0), ("to", columns), ("axis", -1))]
    return made.half("Slice", [wide, *ends], "kept", shape)
