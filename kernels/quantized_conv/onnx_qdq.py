"""Convolutions on codes in standard ONNX alone: QuantizeLinear and DequantizeLinear around an ordinary Conv, built with onnx_ir. Codes
have their channels where the values have them, [B, C, *]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..onnx_nodes import make_initializer
from .codes import Codes
from .elementwise import PreparedElementwise
from .formats import PreparedConv
from .onnx_body import Body, CodedValue, code_scale, padding, typed_node

OPSET = 13
"""The operator set since which DequantizeLinear has an axis."""


def runtime_domain_imports() -> dict[str, int]:
    """No operator set besides the default one."""
    return {}


def coded_shape(shape: ir.Shape) -> ir.Shape:
    """The shape of the codes of a value [B, C, *]."""
    return shape


def quantize_nodes(x: ir.Value, codes: Codes, rank: int, name: str) -> Body:
    """float32 x [B, C, *] -> its codes; `rank` is not needed here."""
    scale, zero = code_scale(codes, name)
    node = typed_node("QuantizeLinear", [x, scale, zero], f"{name}_codes", ir.DataType.UINT8, x.shape)
    return Body([node], CodedValue(node.outputs[0], codes), [scale, zero])


def dequantize_nodes(x: CodedValue, rank: int, name: str) -> tuple[list[ir.Node], ir.Value, list[ir.Value]]:
    """Codes [B, C, *] -> (nodes, float32 of the same shape, initialisers)."""
    scale, zero = code_scale(x.codes, f"{name}_read")
    inputs = [x.value, scale, zero]
    node = typed_node("DequantizeLinear", inputs, f"{name}_float", ir.DataType.FLOAT, x.value.shape)
    return [node], node.outputs[0], [scale, zero]


def conv_nodes(prepared: PreparedConv, x: CodedValue, name: str, shape: ir.Shape | None = None) -> Body:
    """Codes of y [B, M, *] (`shape`, where it is known) from codes of x [B, C, *]: x, the weight and the bias made floating point, one
    Conv, and QuantizeLinear."""
    geometry, weight = prepared.geometry, prepared.weight
    scales = prepared.weight_scale
    read = [x.value, *code_scale(prepared.x, f"{name}_x")]
    held = [make_initializer(f"{name}_weight", weight), make_initializer(f"{name}_weight_scale", scales)]
    steps = (np.float32(prepared.x.scale) * scales).astype(np.float32)
    shift = [make_initializer(f"{name}_bias", prepared.bias), make_initializer(f"{name}_bias_scale", steps)]
    floats = [
        typed_node("DequantizeLinear", read, f"{name}_x_float", ir.DataType.FLOAT, x.value.shape),
        typed_node("DequantizeLinear", held, f"{name}_weight_float", ir.DataType.FLOAT, ir.Shape(weight.shape), axis=0),
        typed_node("DequantizeLinear", shift, f"{name}_bias_float", ir.DataType.FLOAT, ir.Shape([len(weight)]), axis=0),
    ]
    conv = typed_node(
        "Conv", [each.outputs[0] for each in floats], f"{name}_conv", ir.DataType.FLOAT, shape, group=geometry.groups,
        strides=list(geometry.strides), dilations=list(geometry.dilations), **padding(geometry),
        kernel_shape=list(weight.shape[2:]),
    )  # fmt: skip
    scale, zero = code_scale(prepared.y, f"{name}_y")
    node = typed_node("QuantizeLinear", [conv.outputs[0], scale, zero], f"{name}_y", ir.DataType.UINT8, shape)
    return Body([*floats, conv, node], CodedValue(node.outputs[0], prepared.y), [*read[1:], *held, *shift, scale, zero])


def elementwise_nodes(
    prepared: PreparedElementwise, reads: Sequence[CodedValue], name: str, shape: ir.Shape | None = None
) -> Body:
    """Codes of the sum of two values [B, C, *] (`shape`, where it is known) from their codes: both made floating point, an Add, and
    QuantizeLinear."""
    made: list[ir.Value] = []
    floats: list[ir.Node] = []
    for place, (part, codes) in enumerate(zip(reads, prepared.reads, strict=True)):
        how = code_scale(codes, f"{name}_x{place}")
        made += how
        floats.append(
            typed_node("DequantizeLinear", [part.value, *how], f"{name}_x{place}_float", ir.DataType.FLOAT, part.value.shape)
        )
    total = typed_node("Add", [node.outputs[0] for node in floats], f"{name}_sum", ir.DataType.FLOAT, shape)
    scale, zero = code_scale(prepared.y, f"{name}_y")
    node = typed_node("QuantizeLinear", [total.outputs[0], scale, zero], f"{name}_y", ir.DataType.UINT8, shape)
    return Body([*floats, total, node], CodedValue(node.outputs[0], prepared.y), [*made, scale, zero])
