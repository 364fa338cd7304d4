"""`view_onnx`: an ONNX model as a `Net`, for one binding of its input shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .attributes_onnx import NodeFacts, describe
from .collection import collection_paused
from .first_iterations import of_body
from .kinds_onnx import STANDARD_DOMAINS, kind_of_onnx, native_name
from .net import Net, Op, Value
from .shapes_onnx import Facts, Inferred, dtype_name, facts_of, infer

SCOPES = "pkg.torch.onnx.name_scopes"


def view_onnx(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], sample: Mapping[str, np.ndarray] | None = None) -> Net:
    """One `Op` for each node, under the node's name, with `shapes` (input name -> sizes) put in for the symbolic axes.

    Inputs left out of `shapes` get the sizes their symbols imply, else defaults (`sample_onnx.input_shapes`). `sample` are inputs
    for the one run that finds shapes which inference cannot. Linear in the number of nodes. Raises InputError for a shape
    that does not fit. Node names must be unique (`rewriter.trace_onnx` sees to that).
    """
    with collection_paused():
        inferred = infer(model, shapes, sample)
        return _net(model.graph, inferred.graph, inferred, inferred.flat, {}, model.graph.opset_imports)


def _net(
    graph: ir.Graph,
    proto: onnx.GraphProto,
    inferred: Inferred,
    facts: Mapping[str, Facts],
    outer: Mapping[str, Value] | _Scope,
    opsets: Mapping[str, int],
) -> Net:
    """`proto` is the same graph with value infos, `outer` are the values around a branch, which its nodes may read by name."""
    values: dict[str, Value] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            values[name] = Value(name, tuple(tensor.shape.numpy()), dtype_name(tensor.dtype), tensor.numpy)
    visible = _Scope(values, outer)
    for value in graph.inputs:
        name = value.name or ""
        if name not in values:
            values[name] = Value(name, *facts.get(name, (None, dtype_name(value.dtype))))
    ops: dict[str, Op] = {}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for output in node.outputs:
            if output.name:
                shape, dtype = facts.get(output.name, (None, None))
                load = _constant(node) if node.op_type == "Constant" else None
                values[output.name] = Value(output.name, shape, dtype or dtype_name(output.dtype), load)
        op = _op(node, visible, opsets)
        graphs = {n: a.as_graph() for n, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH}
        if graphs:
            taken = inferred.taken.get(op.id)
            branches = []
            for name, branch in graphs.items():
                inner = _subgraph(node_proto, name)
                known: Mapping[str, Facts] = facts_of(inner)
                if name == taken and facts is inferred.flat:
                    known = facts if node.op_type == "If" else {**known, **of_body(facts, op.id)}
                branches.append(_net(branch, inner, inferred, known, visible, opsets))
            more = {} if taken is None else {"taken": list(graphs).index(taken)}
            attributes = {**op.attributes, **more}
            if op.kind == "loop" and not _keeps_its_condition(branches[0]):
                attributes.pop("trips", None)
            op = replace(op, attributes=attributes, branches=tuple(branches))
        ops[op.id] = op
    inputs = tuple(value.name or "" for value in graph.inputs if value.name not in graph.initializers)
    return Net(ops, values, inputs, tuple(value.name or "" for value in graph.outputs), opsets.get("", 0))


def _keeps_its_condition(body: Net) -> bool:
    """Whether the body of a loop hands on the condition that it was given, so that its count alone ends it."""
    name = body.outputs[0]
    while (op := body.producer(name)) is not None and op.kind == "identity":
        name = op.inputs[0]
    return name == body.inputs[1]


class _Scope:
    """Values by name: those of this graph first, then those of the graphs around it."""

    def __init__(self, own: Mapping[str, Value], outer: Mapping[str, Value] | _Scope) -> None:
        self.own, self.outer = own, outer

    def get(self, name: str) -> Value | None:
        return self.own.get(name) or self.outer.get(name)


def _op(node: ir.Node, values: _Scope, opsets: Mapping[str, int]) -> Op:
    names = tuple("" if value is None else value.name or "" for value in node.inputs)
    native = {name: attribute.value for name, attribute in node.attributes.items() if _plain(attribute)}
    outputs = tuple(value.name or "" for value in node.outputs)

    def shape(name: str) -> tuple[int, ...] | None:
        found = values.get(name)
        return found.shape if found else None

    def constant(index: int) -> np.ndarray | None:
        found = values.get(names[index]) if index < len(names) else None
        return found.load() if found and found.load else None

    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    facts = NodeFacts(
        op_type=node.op_type,
        opset=opsets.get(domain, 1),
        native=native,
        inputs=names,
        shapes=[shape(name) for name in names],
        output_shapes=[shape(name) for name in outputs],
        constant=constant,
        number_of_outputs=len(outputs),
    )
    kind, inputs, attributes = describe(kind_of_onnx(node.domain, node.op_type), facts)
    if kind == "cast":
        attributes = {"to": values.own[outputs[0]].dtype}
    return Op(node.name or "", kind, native_name(node.domain, node.op_type), inputs, outputs, attributes, _origin(node))


def _plain(attribute: ir.Attr) -> bool:
    kinds = ir.AttributeType
    return not attribute.is_ref() and attribute.type in (
        kinds.INT, kinds.INTS, kinds.FLOAT, kinds.FLOATS, kinds.STRING, kinds.STRINGS,
    )  # fmt: skip


def _origin(node: ir.Node) -> str:
    """The module path that torch's exporter left in the metadata ("encoder.layer.0.attention"), else the node's name."""
    scopes = node.metadata_props.get(SCOPES)
    if not scopes:
        return node.name or ""
    names = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    return names[-2] if len(names) > 1 and names[-2] else node.name or ""


def _constant(node: ir.Node) -> Callable[[], np.ndarray] | None:
    (name, attribute), *_ = node.attributes.items()
    if name == "value":
        return attribute.as_tensor().numpy
    dtype: Any = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}.get(
        name
    )
    return None if dtype is None else partial(np.asarray, attribute.value, dtype)


def _subgraph(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    return next(attribute.g for attribute in node.attribute if attribute.name == name)
