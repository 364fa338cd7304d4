"""The integer formats as nodes for onnxruntime's CPU provider, built with onnx_ir."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..onnx_nodes import make_initializer, make_node, typed
from .formats import FINE_ZERO, INTEGER_INPUTS, Prepared, fine_scale, row_range_of

RUNTIME_DOMAIN = "com.microsoft"


def runtime_domain_imports() -> dict[str, int]:
    """The operator sets the nodes of this file need besides the default one; add them to `model.opset_imports`."""
    return {RUNTIME_DOMAIN: 1}


class Term(NamedTuple):
    """A part of x: u8 codes (shape of x) with their `scale` and `zero` (scalars)."""

    values: ir.Value
    scale: ir.Value
    zero: ir.Value


@dataclass(frozen=True, eq=False)
class QuantizedInput:
    """x as the sum of its `terms`, one of codes or two, times the `peak` [..., 1] of each row where it has one scale a row."""

    terms: tuple[Term, ...]
    peak: ir.Value | None = None


class Body(NamedTuple):
    """Nodes in order, the value that holds the result, and the initialisers to register with the graph."""

    nodes: list[ir.Node]
    output: ir.Value
    initializers: list[ir.Value]


@dataclass
class QuantizedInputs:
    """The quantised inputs of one graph of that `opset`, so that layers that read the same x with the same scale share one
    quantisation. `halves`: values and what they are in float16."""

    opset: int = 20
    known: dict[tuple[ir.Value, str], QuantizedInput] = field(default_factory=dict)
    halves: dict[ir.Value, ir.Value] = field(default_factory=dict)


def quantize_nodes(
    prepared: Prepared, x: ir.Value, name: str, shared: QuantizedInputs
) -> tuple[list[ir.Node], QuantizedInput, list[ir.Value]]:
    """(nodes, quantised x, initialisers) for a layer of `INTEGER_INPUTS`; no nodes if `shared` already holds x in this form. `x` is
    float32 [M, K] or [B, L, K]. Always u8: signed codes take a path that is 10 to 15 times slower on x86."""
    key = (x, _input_key(prepared))
    if key in shared.known:
        return [], shared.known[key], []
    made = Maker(name)
    if prepared.base == "int8_dynamic":
        node = make_node("DynamicQuantizeLinear", [x], [f"{name}_q", f"{name}_q_scale", f"{name}_q_zero"])
        for output, dtype in zip(node.outputs, (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8), strict=True):
            output.type = ir.TensorType(dtype)
        node.outputs[0].shape = x.shape
        shared.known[key] = QuantizedInput((Term(*node.outputs),))
        return [node], shared.known[key], []
    source = (
        made.float("Mul", [x, made.constant("input_scale", prepared.tensors["input_scale"])], "scaled")
        if _moved(prepared)
        else x
    )
    if prepared.base == "int8_token":
        shared.known[key] = made.by_row(prepared, source, shared.opset)
    else:
        scale = made.constant("q_scale", np.array(prepared.scalars["scale"], np.float32))
        zero = made.constant("q_zero", np.array(prepared.scalars["zero"], np.uint8))
        terms = [made.codes(source, scale, zero, "q")]
        if prepared.base == "int8_hilo":
            back = made.float("DequantizeLinear", list(terms[0]), "q_back")
            rest = made.float("Sub", [source, back], "rest")
            fine = made.constant("fine_scale", np.array(fine_scale(prepared)))
            terms.append(made.codes(rest, fine, made.constant("fine_zero", np.array(FINE_ZERO, np.uint8)), "fine_q"))
        shared.known[key] = QuantizedInput(tuple(terms))
    return made.nodes, shared.known[key], made.initializers


@dataclass
class Maker:
    """The nodes and initialisers of one quantised input, named after `name`."""

    name: str
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)

    def constant(self, role: str, array: np.ndarray) -> ir.Value:
        """A new initialiser that holds `array`."""
        self.initializers.append(make_initializer(f"{self.name}_{role}", array))
        return self.initializers[-1]

    def float(
        self, kind: str, inputs: Sequence[ir.Value], role: str, shape: ir.Shape | None = None, **attributes: Any
    ) -> ir.Value:
        """The float32 result of a new node, of `shape`, or of that of its first input."""
        self.nodes.append(make_node(kind, inputs, [f"{self.name}_{role}"], **attributes))
        return typed(self.nodes[-1].outputs[0], ir.DataType.FLOAT, shape or inputs[0].shape)

    def codes(self, x: ir.Value, scale: ir.Value, zero: ir.Value, role: str) -> Term:
        """The u8 codes of float32 x, of its shape, by scalars `scale` and `zero`."""
        self.nodes.append(make_node("QuantizeLinear", [x, scale, zero], [f"{self.name}_{role}"]))
        return Term(typed(self.nodes[-1].outputs[0], ir.DataType.UINT8, x.shape), scale, zero)

    def by_row(self, prepared: Prepared, x: ir.Value, opset: int) -> QuantizedInput:
        """x over the peak of its row, then one scale for all: with one for each row along its last axis QuantizeLinear is 90 times slower.
        For [1024, 1536] the Mul took 0.15 ms on two threads, and a Div 0.27 ms."""
        rows = row_range_of(prepared)
        one = _output_shape(x, 1)
        # The axes are an attribute before opset 18, then an input.
        axes = [self.constant("last_axis", np.array([-1], np.int64))] if opset >= 18 else []
        axis = {} if axes else {"axes": [-1]}
        highest = self.float("ReduceMax", [x, *axes], "highest", one, **axis)
        bounds = [highest, self.constant("floor", np.array(rows.floor, np.float32))]
        if rows.two_sided:
            lowest = self.float("ReduceMin", [x, *axes], "lowest", one, **axis)
            bounds.append(self.float("Mul", [lowest, self.constant("below", np.array(-rows.below))], "depth"))
        peak = self.float("Max", bounds, "peak")
        scale = self.constant("q_scale", np.array(rows.step))
        zero = self.constant("q_zero", np.array(rows.zero, np.uint8))
        shares = self.float("Mul", [x, self.float("Reciprocal", [peak], "over_peak")], "shares")
        return QuantizedInput((self.codes(shares, scale, zero, "q"),), peak)


def linear_nodes(prepared: Prepared, x: ir.Value, name: str, shared: QuantizedInputs | None = None) -> Body:
    """y = x W + b as onnxruntime runs it fastest: x quantised once for each `shared` input, then MatMulIntegerToFloat with zero point,
    per-column scale and bias inside (they cost nothing there; DynamicQuantizeMatMul is within 3 % and shares nothing), one for
    each term of x, and the peaks of the rows last; weight-only formats are one MatMulNBits at accuracy level 4 (other levels compute
    in float). The caller inserts the nodes after the producer of x; a merged layer gives the wide result."""
    bias = make_initializer(f"{name}_bias", prepared.tensors["bias"])
    if prepared.base not in INTEGER_INPUTS:
        return _block_nodes(prepared, x, name, bias)
    nodes, quantized, initializers = quantize_nodes(prepared, x, name, shared or QuantizedInputs())
    made = Maker(name, list(nodes), list(initializers))
    weight = made.constant("weight", prepared.tensors["weight"])
    columns = made.constant("weight_scale", prepared.tensors["weight_scale"])
    made.initializers.append(bias)
    shape = _output_shape(x, prepared.out_features)
    products = []
    for position, codes in enumerate(quantized.terms):
        inside = bias if quantized.peak is None and position == 0 else None
        inputs = [codes.values, weight, codes.scale, columns, codes.zero, None, inside]
        label = f"{name}_y" if len(quantized.terms) == 1 and quantized.peak is None else f"{name}_product_{position}"
        made.nodes.append(make_node("MatMulIntegerToFloat", inputs, [label], RUNTIME_DOMAIN))
        products.append(typed(made.nodes[-1].outputs[0], ir.DataType.FLOAT, shape))
    output = products[0]
    if quantized.peak is not None:
        output = made.float("Add", [made.float("Mul", [output, quantized.peak], "scaled_product"), bias], "y")
    elif len(products) > 1:
        output = made.float("Add", products, "y")
    return Body(made.nodes, output, made.initializers)


def _block_nodes(prepared: Prepared, x: ir.Value, name: str, bias: ir.Value) -> Body:
    weight = make_initializer(f"{name}_weight", prepared.tensors["weight"])
    scale = make_initializer(f"{name}_weight_scale", prepared.tensors["weight_scale"])
    zero = (
        make_initializer(f"{name}_weight_zero", prepared.tensors["weight_zero"]) if "weight_zero" in prepared.tensors else None
    )
    node = make_node(
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
    output = typed(node.outputs[0], ir.DataType.FLOAT, _output_shape(x, prepared.out_features))
    return Body([node], output, [v for v in (weight, scale, zero, bias) if v is not None])


def _moved(prepared: Prepared) -> bool:
    return bool(prepared.scalars.get("migrated"))


def _input_key(prepared: Prepared) -> str:
    multiplier = prepared.tensors["input_scale"].tobytes() if _moved(prepared) else b""
    return f"{prepared.base} {sorted(prepared.scalars.items())} {hashlib.sha256(multiplier).hexdigest()}"


def _output_shape(x: ir.Value, features: int) -> ir.Shape | None:
    return None if x.shape is None else ir.Shape([*x.shape[:-1], features])
