"""Concrete shapes and dtypes of every value of an ONNX model: shape inference on a copy without weights, then one real run
for what stays unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from .collectives_onnx import stand_in
from .errors import InputError
from .first_iterations import first_iterations
from .probe_onnx import measure_shapes, take_branches
from .sample_onnx import input_shapes, random_inputs

SMALL = 1024
"""Elements. Larger initialisers stay out of the copy: none of that size is a shape, and the copy must stay below 2 GB."""

Facts = tuple[tuple[int, ...] | None, str | None]


@dataclass(frozen=True)
class Inferred:
    """`graph`: the model's graph with value infos. `flat`: facts by value name of the main graph, of every branch that is taken and, under
    the names of `first_iterations.of_body`, of the body of every loop; `taken`: node name -> attribute name of that branch or body."""

    graph: onnx.GraphProto
    flat: Mapping[str, Facts]
    taken: Mapping[str, str]


@cache
def dtype_name(kind: ir.DataType | None) -> str | None:
    """The numpy name of an ONNX dtype ("float32", "bfloat16", "str"); None if it is unknown."""
    if kind is None or kind == ir.DataType.UNDEFINED:
        return None
    return "str" if kind == ir.DataType.STRING else kind.numpy().name


def infer(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], sample: Mapping[str, np.ndarray] | None = None) -> Inferred:
    """Facts of every value for the given input `shapes`.

    What cannot be inferred (data-dependent shapes, operators of other domains, which branch an If takes) is read off runs in
    onnxruntime on `sample`, or on random inputs where it is None or of another shape; what cannot be run stays unknown.
    Raises InputError if a shape does not fit its input (see `input_shapes`).
    """
    concrete = input_shapes(model, shapes)
    proto, weights = skeleton(model, concrete)
    proto = _infer(proto)
    flat, inputs = proto, None
    taken: dict[str, str] = {}
    while any(node.op_type == "If" for node in flat.graph.node):
        inputs = _inputs(model, concrete, sample) if inputs is None else inputs
        step = take_branches(flat, weights, inputs)
        if step is None:
            break
        flat, taken = _infer(step[0]), taken | step[1]
    while (iterated := first_iterations(flat, taken)) is not None:
        flat, taken = _infer(iterated[0]), taken | dict.fromkeys(iterated[1], "body")
    known, missing = facts_of(flat.graph), _unknown(flat.graph)
    if missing:
        measured = measure_shapes(flat, weights, _inputs(model, concrete, sample) if inputs is None else inputs, missing)
        known |= {info.name: _facts(info) for info in measured}
    return Inferred(proto.graph, known, taken)


def skeleton(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """A copy of `model` whose inputs have the concrete `shapes`, without value infos or large weights; and those weights.

    A weight left out is declared as an input of the copy. The model is not touched.
    """
    proto, graph = onnx.ModelProto(), model.graph
    large: dict[str, ir.TensorProtocol] = {}
    proto.ir_version = model.ir_version
    for domain, version in graph.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    for function in model.functions.values():
        ir.serde.serialize_function_into(proto.functions.add(), function)
    proto.graph.name = graph.name or "graph"
    for value in graph.inputs:
        if value.name in graph.initializers:
            continue
        info = proto.graph.input.add()
        ir.serde.serialize_value_into(info, value)
        sizes = shapes.get(value.name or "")
        if sizes is not None and isinstance(value.type, ir.TensorType):
            info.type.tensor_type.shape.Clear()
            info.type.tensor_type.shape.SetInParent()
            for dim in sizes:
                info.type.tensor_type.shape.dim.add(dim_value=dim)
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        dims = tensor.shape.numpy()
        if math.prod(dims) <= SMALL:
            # The copy has no folder that external data could be relative to.
            inline = ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, ir.ExternalTensor) else tensor
            ir.serde.serialize_tensor_into(proto.graph.initializer.add(), inline)
            proto.graph.initializer[-1].name = name
        else:
            large[name] = tensor
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), dims))
    for node in graph:
        ir.serde.serialize_node_into(proto.graph.node.add(), node)
    stand_in(proto.graph.node)
    for value in graph.outputs:
        # An output without a type is skipped by inference; its declared shape may be that of another batch size.
        info = proto.graph.output.add(name=value.name)
        if isinstance(value.type, ir.TensorType):
            info.type.tensor_type.elem_type = int(value.type.dtype)
    return proto, large


def facts_of(graph: onnx.GraphProto) -> dict[str, Facts]:
    """Shape and dtype name of every value that the graph annotates; None for an unknown shape or dtype."""
    return {info.name: _facts(info) for info in (*graph.input, *graph.value_info, *graph.output)}


def _facts(info: onnx.ValueInfoProto) -> Facts:
    if not info.type.HasField("tensor_type"):
        return None, None
    tensor = info.type.tensor_type
    known = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
    shape = tuple(dim.dim_value for dim in tensor.shape.dim) if known else None
    return shape, _dtype_name_of(tensor.elem_type)


@cache
def _dtype_name_of(element: int) -> str | None:
    return dtype_name(ir.DataType(element))


def _unknown(graph: onnx.GraphProto) -> list[str]:
    """The outputs of nodes whose shape or dtype the graph does not say."""
    known = facts_of(graph)
    return [name for node in graph.node for name in node.output if name and None in known.get(name, (None, None))]


def _infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with value infos. Data is propagated only where shapes alone leave something open: it goes through large tensors number by
    number (0.6 s for eight products of 600,000 numbers, against 0.2 ms)."""
    found = proto
    for data_prop in (False, True):
        try:
            found = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=data_prop)
        except onnx.shape_inference.InferenceError:  # it gives up on the whole graph; the run then finds every shape
            return proto
        if not _unknown(found.graph):
            break
    return found


def _inputs(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]], sample: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    try:
        inputs = random_inputs(model, shapes)
    except InputError:
        inputs = {}
    fitting = {name: array for name, array in (sample or {}).items() if tuple(array.shape) == shapes.get(name)}
    return inputs | fitting
