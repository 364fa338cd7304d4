"""Convolutions on codes as nodes for onnxruntime's CPU provider, built with onnx_ir. Codes have their channels last, [B, *, C]: that is
the layout of the integer kernels, and onnxruntime would else put a transpose on either side of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..onnx_nodes import make_initializer, make_node, typed
from .codes import Codes
from .elementwise import ACTIONS, SIGMOID, PreparedElementwise
from .formats import Geometry, PreparedConv

RUNTIME_DOMAIN = "com.microsoft"


def runtime_domain_imports() -> dict[str, int]:
    """The operator sets the nodes of this file need besides the default one."""
    return {RUNTIME_DOMAIN: 1}


class CodedValue(NamedTuple):
    """A value in codes, and how they are to be read: uint8, here [B, *, C], in standard ONNX [B, C, *]."""

    value: ir.Value
    codes: Codes


class Body(NamedTuple):
    """Nodes in order, the result in codes, and the initialisers to register with the graph."""

    nodes: list[ir.Node]
    output: CodedValue
    initializers: list[ir.Value]


def coded_shape(shape: ir.Shape) -> ir.Shape:
    """The shape of the codes of a value [B, C, *]."""
    return ir.Shape([shape[0], *shape[2:], shape[1]])


def quantize_nodes(x: ir.Value, codes: Codes, rank: int, name: str) -> Body:
    """float32 x [B, C, *] -> its codes [B, *, C]."""
    scale, zero = code_scale(codes, name)
    node = typed_node("QuantizeLinear", [x, scale, zero], f"{name}_codes", ir.DataType.UINT8, x.shape)
    order = [0, *range(2, rank), 1]
    moved = typed_node("Transpose", [node.outputs[0]], f"{name}_last", ir.DataType.UINT8, _moved(x.shape, order), perm=order)
    return Body([node, moved], CodedValue(moved.outputs[0], codes), [scale, zero])


def dequantize_nodes(x: CodedValue, rank: int, name: str) -> tuple[list[ir.Node], ir.Value, list[ir.Value]]:
    """Codes [B, *, C] -> (nodes, float32 [B, C, *], initialisers)."""
    order = [0, rank - 1, *range(1, rank - 1)]
    shape = _moved(x.value.shape, order)
    scale, zero = code_scale(x.codes, f"{name}_read")
    moved = typed_node("Transpose", [x.value], f"{name}_first", ir.DataType.UINT8, shape, perm=order)
    node = typed_node("DequantizeLinear", [moved.outputs[0], scale, zero], f"{name}_float", ir.DataType.FLOAT, shape)
    return [moved, node], node.outputs[0], [scale, zero]


def conv_nodes(prepared: PreparedConv, x: CodedValue, name: str, shape: ir.Shape | None = None) -> Body:
    """Codes of y [B, *, M] from codes of x [B, *, C]: one QLinearConv. `shape` is that of y [B, M, *], where it is known."""
    scale, zero = code_scale(prepared.y, f"{name}_y")
    read_scale, read_zero = code_scale(prepared.x, f"{name}_x")
    weight = make_initializer(f"{name}_weight", prepared.weight)
    weight_scale = make_initializer(f"{name}_weight_scale", prepared.weight_scale)
    weight_zero = make_initializer(f"{name}_weight_zero", np.zeros_like(prepared.bias, np.int8))
    bias = make_initializer(f"{name}_bias", prepared.bias)
    geometry = prepared.geometry
    last = None if shape is None else coded_shape(shape)
    node = typed_node(
        "QLinearConv", [x.value, read_scale, read_zero, weight, weight_scale, weight_zero, scale, zero, bias], f"{name}_y",
        ir.DataType.UINT8, last, RUNTIME_DOMAIN, channels_last=1, group=geometry.groups, strides=list(geometry.strides),
        **padding(geometry), dilations=list(geometry.dilations), kernel_shape=list(prepared.weight.shape[2:]),
    )  # fmt: skip
    made = [scale, zero, read_scale, read_zero, weight, weight_scale, weight_zero, bias]
    return Body([node], CodedValue(node.outputs[0], prepared.y), made)


def pool_nodes(x: CodedValue, settings: Mapping[str, Any], name: str) -> Body:
    """Maxima of windows of codes [B, *, C], which are the codes of the maxima; `settings` are the attributes of ONNX's MaxPool."""
    node = typed_node("NhwcMaxPool", [x.value], f"{name}_codes", ir.DataType.UINT8, None, RUNTIME_DOMAIN, **settings)
    return Body([node], CodedValue(node.outputs[0], x.codes), [])


def join_nodes(parts: Sequence[CodedValue], codes: Codes, name: str, shape: ir.Shape | None) -> Body:
    """The channels of all parts [B, *, C] side by side in `codes`, each read by codes of its own; `shape` is that of the floats."""
    scale, zero = code_scale(codes, name)
    read = [code_scale(part.codes, f"{name}_part{place}") for place, part in enumerate(parts)]
    inputs = [scale, zero, *(v for part, of_part in zip(parts, read, strict=True) for v in (part.value, *of_part))]
    last = None if shape is None else coded_shape(shape)
    node = typed_node("QLinearConcat", inputs, f"{name}_joined", ir.DataType.UINT8, last, RUNTIME_DOMAIN, axis=-1)
    return Body([node], CodedValue(node.outputs[0], codes), [scale, zero, *(v for of_part in read for v in of_part)])


def elementwise_nodes(
    prepared: PreparedElementwise, reads: Sequence[CodedValue], name: str, shape: ir.Shape | None = None
) -> Body:
    """Codes of y [B, *, C] (a flat mean: [B, C]) from codes of what it reads: QLinearAdd, QLinearGlobalAveragePool, or for a Gelu a table
    of the sigmoid and a product. `shape` is that of y [B, C, *], where it is known."""
    last = None if shape is None or prepared.flat else coded_shape(shape)
    scale, zero = code_scale(prepared.y, f"{name}_y")
    coded = zip(reads, prepared.reads, strict=True)
    parts = [(part.value, *code_scale(codes, f"{name}_x{place}")) for place, (part, codes) in enumerate(coded)]
    made = [scale, zero, *(value for part in parts for value in part[1:])]

    def node(kind: str, inputs: Sequence[ir.Value], result: str, **attributes: int) -> ir.Node:
        return typed_node(kind, inputs, f"{name}_{result}", ir.DataType.UINT8, last, RUNTIME_DOMAIN, **attributes)

    if prepared.action == ACTIONS["mean"]:
        pooled = node("QLinearGlobalAveragePool", [*parts[0], scale, zero], "mean" if prepared.flat else "y", channels_last=1)
        if not prepared.flat:
            return Body([pooled], CodedValue(pooled.outputs[0], prepared.y), made)
        sizes = make_initializer(f"{name}_sizes", np.array([0, -1], np.int64))
        flat = typed_node("Reshape", [pooled.outputs[0], sizes], f"{name}_y", ir.DataType.UINT8, shape)
        return Body([pooled, flat], CodedValue(flat.outputs[0], prepared.y), [*made, sizes])
    if prepared.action == ACTIONS["add"]:
        total = node("QLinearAdd", [*parts[0], *parts[1], scale, zero], "y")
        return Body([total], CodedValue(total.outputs[0], prepared.y), made)
    x, _, zero_of_x = parts[0]
    slope = make_initializer(f"{name}_slope", np.array(prepared.reads[0].scale * prepared.slope, np.float32))
    held = code_scale(SIGMOID, f"{name}_sigmoid")
    sigmoid = node("QLinearSigmoid", [x, slope, zero_of_x, *held], "sigmoid")
    product = node("QLinearMul", [*parts[0], sigmoid.outputs[0], *held, scale, zero], "y")
    return Body([sigmoid, product], CodedValue(product.outputs[0], prepared.y), [*made, slope, *held])


def padding(geometry: Geometry) -> dict[str, Any]:
    """The attribute of a convolution that says how it is padded."""
    return {"auto_pad": geometry.auto_pad} if geometry.auto_pad else {"pads": list(geometry.pads)}


def code_scale(codes: Codes, name: str) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point, as initialisers."""
    return (
        make_initializer(f"{name}_scale", np.array(codes.scale, np.float32)),
        make_initializer(f"{name}_zero", np.array(codes.zero, np.uint8)),
    )


def typed_node(
    kind: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    shape: ir.Shape | None,
    domain: str = "",
    **attributes: Any,
) -> ir.Node:
    """A node with one result, which has its name."""
    node = make_node(kind, inputs, [name], domain, **attributes)
    typed(node.outputs[0], dtype, shape)
    return node


def _moved(shape: ir.Shape | None, order: Sequence[int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in order])
