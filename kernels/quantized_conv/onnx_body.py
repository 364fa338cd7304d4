"""Convolutions on codes as nodes for onnxruntime's CPU provider, built with onnx_ir. Codes have their channels last, [B, *, C]: that is
the layout of the integer kernels, and onnxruntime would else put a transpose on either side of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from .formats import Codes, PreparedConv

RUNTIME_DOMAIN = "com.microsoft"


class CodedValue(NamedTuple):
    """A value in codes: uint8 [B, *, C], and its scale and zero point as initialisers."""

    codes: ir.Value
    scale: ir.Value
    zero: ir.Value


class Body(NamedTuple):
    """Nodes in order, the result in codes, and the initialisers to register with the graph."""

    nodes: list[ir.Node]
    output: CodedValue
    initializers: list[ir.Value]


def quantize_nodes(x: ir.Value, codes: Codes, rank: int, name: str) -> Body:
    """float32 x [B, C, *] -> its codes [B, *, C]."""
    scale, zero = _codes(codes, name)
    node = _node("QuantizeLinear", [x, scale, zero], f"{name}_codes", ir.DataType.UINT8, x.shape)
    order = [0, *range(2, rank), 1]
    moved = _node("Transpose", [node.outputs[0]], f"{name}_last", ir.DataType.UINT8, _moved(x.shape, order), perm=order)
    return Body([node, moved], CodedValue(moved.outputs[0], scale, zero), [scale, zero])


def dequantize_nodes(x: CodedValue, rank: int, name: str) -> tuple[list[ir.Node], ir.Value]:
    """Codes [B, *, C] -> (nodes, float32 [B, C, *])."""
    order = [0, rank - 1, *range(1, rank - 1)]
    shape = _moved(x.codes.shape, order)
    moved = _node("Transpose", [x.codes], f"{name}_first", ir.DataType.UINT8, shape, perm=order)
    node = _node("DequantizeLinear", [moved.outputs[0], x.scale, x.zero], f"{name}_float", ir.DataType.FLOAT, shape)
    return [moved, node], node.outputs[0]


def conv_nodes(prepared: PreparedConv, x: CodedValue, name: str) -> Body:
    """Codes of y [B, *, M] from codes of x [B, *, C]: one QLinearConv."""
    scale, zero = _codes(prepared.y, f"{name}_y")
    weight = _initializer(f"{name}_weight", prepared.weight)
    weight_scale = _initializer(f"{name}_weight_scale", prepared.weight_scale)
    weight_zero = _initializer(f"{name}_weight_zero", np.zeros_like(prepared.bias, np.int8))
    bias = _initializer(f"{name}_bias", prepared.bias)
    geometry = prepared.geometry
    node = _node(
        "QLinearConv", [x.codes, x.scale, x.zero, weight, weight_scale, weight_zero, scale, zero, bias], f"{name}_y",
        ir.DataType.UINT8, None, RUNTIME_DOMAIN, channels_last=1, group=geometry.groups, strides=list(geometry.strides),
        pads=list(geometry.pads), dilations=list(geometry.dilations), kernel_shape=list(prepared.weight.shape[2:]),
    )  # fmt: skip
    made = [scale, zero, weight, weight_scale, weight_zero, bias]
    return Body([node], CodedValue(node.outputs[0], scale, zero), made)


def _codes(codes: Codes, name: str) -> tuple[ir.Value, ir.Value]:
    return (
        _initializer(f"{name}_scale", np.array(codes.scale, np.float32)),
        _initializer(f"{name}_zero", np.array(codes.zero, np.uint8)),
    )


def _node(
    kind: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    shape: ir.Shape | None,
    domain: str = "",
    **attributes: Any,
) -> ir.Node:
    node = ir.node(kind, inputs, attributes=attributes, domain=domain, num_outputs=1, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(dtype)
    node.outputs[0].shape = shape
    return node


def _initializer(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def _moved(shape: ir.Shape | None, order: Sequence[int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in order])
