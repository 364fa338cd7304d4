"""What it costs to make u8 codes of a value and floating point of its codes, timed as everything else is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

import onnx_ir as ir

from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.price import with_seconds
from ..kernels.onnx_forms import CONV, ConvForm
from ..kernels.quantized_conv.codes import Codes
from ..kernels.quantized_conv.onnx_body import CodedValue
from .candidates import random_feeds, time_in_turn, times_belong_to
from .edges import Edge
from .options import Nets, Pricing

CODES = Codes(1 / 32, 128)


def priced(edges: Sequence[Edge], nets: Nets, pricing: Pricing, progress: Callable[[str], None] = lambda _: None) -> list[Edge]:
    """The edges with what their conversions cost per call of the workload, timed where the target is the machine at hand; infinite where
    the shape of the value is not known."""
    known: dict[tuple[int, ...], tuple[tuple[float, float], tuple[float, float]]] = {}
    done = []
    for edge in edges:
        joules, seconds = [0.0, 0.0], [0.0, 0.0]
        for phase in pricing.workload.phases:
            shape = nets[phase.name].shape(edge.value)
            if shape is None:
                joules = seconds = [inf, inf]
                break
            if shape not in known:
                known[shape] = _conversions(shape, pricing, progress)
            for index, (joule, second) in enumerate(known[shape]):
                joules[index] += phase.weight * joule
                seconds[index] += phase.weight * second
        done.append(replace(edge, quantize=joules[0], dequantize=joules[1], seconds=(seconds[0], seconds[1])))
    return done


def _conversions(
    shape: tuple[int, ...], pricing: Pricing, progress: Callable[[str], None]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(joules, seconds) of making codes of a value of that shape, and of the way back."""
    backend, device = pricing.prices.backend, pricing.prices.device
    form = CONV[OnnxStyle(backend.style)]
    graphs = {"quantize": _quantize(form, shape), "dequantize": _dequantize(form, shape)}
    views = {name: backend.view(graph, {}) for name, graph in graphs.items()}
    costs = {name: pricing.prices.part(views[name], graph) for name, graph in graphs.items()}
    if pricing.table is not None:
        key = f"{backend.runtime}/codes/{'x'.join(map(str, shape))}/{times_belong_to(backend)}"
        seconds = {name: pricing.table.get(f"{key}/{name}") for name in graphs}
        if None in seconds.values():
            progress(f"timing conversions of {'x'.join(map(str, shape))}")
            timed = time_in_turn(backend, {name: (graph, random_feeds(views[name])) for name, graph in graphs.items()})
            seconds = {name: min(rounds) for name, rounds in timed.items()}
            for name, value in seconds.items():
                pricing.table.put(f"{key}/{name}", value or 0.0)
        costs = {name: with_seconds(cost, device, seconds[name] or 0.0) for name, cost in costs.items()}
    forth, back = ((costs[name].joules, costs[name].seconds) for name in ("quantize", "dequantize"))
    return forth, back


def _quantize(form: ConvForm, shape: Sequence[int]) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    body = form.quantize_nodes(x, CODES, len(shape), "q")
    return _model([x], body.nodes, body.output.value, body.initializers)


def _dequantize(form: ConvForm, shape: Sequence[int]) -> ir.Model:
    x = ir.Value(name="x", shape=form.coded_shape(ir.Shape(shape)), type=ir.TensorType(ir.DataType.UINT8))
    nodes, y, initializers = form.dequantize_nodes(CodedValue(x, CODES), len(shape), "d")
    return _model([x], nodes, y, initializers)


def _model(inputs: list[ir.Value], nodes: list[ir.Node], output: ir.Value, initializers: list[ir.Value]) -> ir.Model:
    graph = ir.Graph(inputs, [output], nodes=nodes, initializers=initializers, opset_imports={"": 17}, name="codes")
    return ir.Model(graph, ir_version=8)
