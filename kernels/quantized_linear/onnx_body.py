"""The integer formats as nodes for onnxruntime's CPU provider, built with onnx_ir."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from .formats import FORMATS, Prepared

RUNTIME_DOMAIN = "com.microsoft"


def runtime_domain_imports() -> dict[str, int]:
    """The operator sets the nodes of this file need besides the default one; add them to `model.opset_imports`."""
    return {RUNTIME_DOMAIN: 1}


@dataclass(frozen=True, eq=False)
class QuantizedInput:
    """x as u8 codes: `codes` (shape of x), `scale` and `zero` (scalars)."""

    codes: ir.Value
    scale: ir.Value
    zero: ir.Value


class Body(NamedTuple):
    """Nodes in order, the value that holds the result, and the initialisers to register with the graph."""

    nodes: list[ir.Node]
    output: ir.Value
    initializers: list[ir.Value]


@dataclass
class QuantizedInputs:
    """The quantised inputs of one graph, so that layers that read the same x with the same scale share one quantisation."""

    known: dict[tuple[ir.Value, str], QuantizedInput] = field(default_factory=dict)


def quantize_nodes(
    prepared: Prepared, x: ir.Value, name: str, shared: QuantizedInputs
) -> tuple[list[ir.Node], QuantizedInput, list[ir.Value]]:
    """(nodes, quantised x, initialisers) for an int8_static or int8_dynamic layer; no nodes if `shared` already holds x in this
    form. `x` is float32 [M, K] or [B, L, K]. Always u8: signed codes take a path that is 10 to 15 times slower on x86."""
    key = (x, _input_key(prepared))
    if key in shared.known:
        return [], shared.known[key], []
    if prepared.base == "int8_dynamic":
        node = _node("DynamicQuantizeLinear", [x], [f"{name}_q", f"{name}_q_scale", f"{name}_q_zero"])
        for output, dtype in zip(node.outputs, (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8), strict=True):
            output.type = ir.TensorType(dtype)
        node.outputs[0].shape = x.shape
        shared.known[key] = QuantizedInput(*node.outputs)
        return [node], shared.known[key], []
    nodes: list[ir.Node] = []
    initializers = [
        _initializer(f"{name}_q_scale", np.array(prepared.scalars["scale"], np.float32)),
        _initializer(f"{name}_q_zero", np.array(prepared.scalars["zero"], np.uint8)),
    ]
    source = x
    if prepared.scalars["migrated"]:
        multiplier = _initializer(f"{name}_input_scale", prepared.tensors["input_scale"])
        nodes.append(_node("Mul", [x, multiplier], [f"{name}_scaled"]))
        source = _typed(nodes[0].outputs[0], ir.DataType.FLOAT, x.shape)
        initializers.append(multiplier)
    nodes.append(_node("QuantizeLinear", [source, initializers[0], initializers[1]], [f"{name}_q"]))
    codes = _typed(nodes[-1].outputs[0], ir.DataType.UINT8, x.shape)
    shared.known[key] = QuantizedInput(codes, initializers[0], initializers[1])
    return nodes, shared.known[key], initializers


def linear_nodes(prepared: Prepared, x: ir.Value, name: str, shared: QuantizedInputs | None = None) -> Body:
    """y = x W + b as onnxruntime runs it fastest: one QuantizeLinear or DynamicQuantizeLinear per `shared` input, then
    MatMulIntegerToFloat with zero point, per-column scale and bias inside (they cost nothing there; DynamicQuantizeMatMul is
    within 3 % and shares nothing); weight-only formats are one MatMulNBits at accuracy level 4 (other levels compute in float).
    The caller inserts the nodes after the producer of x; a merged layer gives the wide result (see `split_nodes`)."""
    bias = _initializer(f"{name}_bias", prepared.tensors["bias"])
    if prepared.base not in FORMATS[:2]:
        return _block_nodes(prepared, x, name, bias)
    nodes, quantized, initializers = quantize_nodes(prepared, x, name, shared or QuantizedInputs())
    weight = _initializer(f"{name}_weight", prepared.tensors["weight"])
    scale = _initializer(f"{name}_weight_scale", prepared.tensors["weight_scale"])
    inputs = [quantized.codes, weight, quantized.scale, scale, quantized.zero, None, bias]
    node = _node("MatMulIntegerToFloat", inputs, [f"{name}_y"], RUNTIME_DOMAIN)
    output = _typed(node.outputs[0], ir.DataType.FLOAT, _output_shape(x, prepared.out_features))
    return Body([*nodes, node], output, [*initializers, weight, scale, bias])


def split_nodes(
    prepared: Prepared, wide: ir.Value, names: Sequence[str]
) -> tuple[list[ir.Node], list[ir.Value], list[ir.Value]]:
    """(nodes, one value per layer, initialisers): the result of a merged layer cut along its last axis, in the order of `merge`."""
    sizes = _initializer(f"{names[0]}_splits", prepared.tensors["splits"])
    node = _node("Split", [wide, sizes], [f"{name}_y" for name in names], axis=-1)
    for output, width in zip(node.outputs, prepared.tensors["splits"], strict=True):
        _typed(output, ir.DataType.FLOAT, _output_shape(wide, int(width)))
    return [node], list(node.outputs), [sizes]


def _block_nodes(prepared: Prepared, x: ir.Value, name: str, bias: ir.Value) -> Body:
    weight = _initializer(f"{name}_weight", prepared.tensors["weight"])
    scale = _initializer(f"{name}_weight_scale", prepared.tensors["weight_scale"])
    zero = _initializer(f"{name}_weight_zero", prepared.tensors["weight_zero"]) if "weight_zero" in prepared.tensors else None
    node = _node(
        "MatMulNBits",
        [x, weight, scale, zero, None, bias],
        [f"{name}_y"],
        RUNTIME_DOMAIN,
        K=prepared.in_features,
        N=prepared.out_features,
        bits=int(prepared.scalars["bits"]),
        block_size=int(prepared.scalars["block"]),
        accuracy_level=4,
    )
    output = _typed(node.outputs[0], ir.DataType.FLOAT, _output_shape(x, prepared.out_features))
    return Body([node], output, [v for v in (weight, scale, zero, bias) if v is not None])


def _input_key(prepared: Prepared) -> str:
    if prepared.base == "int8_dynamic":
        return "dynamic"
    multiplier = prepared.tensors["input_scale"].tobytes() if prepared.scalars["migrated"] else b""
    return f"{prepared.scalars['scale']!r} {prepared.scalars['zero']} {hashlib.sha256(multiplier).hexdigest()}"


def _node(kind: str, inputs: Sequence[ir.Value | None], outputs: Sequence[str], domain: str = "", **attributes: Any) -> ir.Node:
    node = ir.node(kind, inputs, attributes=attributes, domain=domain, num_outputs=len(outputs), name=outputs[0])
    for value, label in zip(node.outputs, outputs, strict=True):
        value.name = label
    return node


def _initializer(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def _typed(value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    value.type = ir.TensorType(dtype)
    value.shape = shape
    return value


def _output_shape(x: ir.Value, features: int) -> ir.Shape | None:
    return None if x.shape is None else ir.Shape([*x.shape[:-1], features])
