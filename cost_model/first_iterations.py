"""The first iteration of every loop of an ONNX graph, beside it under names of its own: what is known of its values holds for them all."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, TypeVar

import onnx

from .probe_onnx import PREFIX

Entry = TypeVar("Entry")


def first_iterations(proto: onnx.ModelProto, done: Container[str]) -> tuple[onnx.ModelProto, list[str]] | None:
    """`proto` with a copy of the first iteration of each Scan and Loop of its main graph, and the names of those nodes; None if every one
    of them is in `done`."""
    nodes = [node for node in proto.graph.node if node.op_type in ("Scan", "Loop") and node.domain in ("", "ai.onnx")]
    nodes = [node for node in nodes if node.name not in done]
    if not nodes:
        return None
    flat = onnx.ModelProto()
    flat.CopyFrom(proto)
    for node in nodes:
        body = onnx.GraphProto()
        body.CopyFrom(onnx.helper.get_node_attr_value(node, "body"))
        _rename(body, _prefix(node.name))
        flat.graph.node.extend(_scanned(node, body) if node.op_type == "Scan" else _looped(node, body))
        flat.graph.initializer.extend(body.initializer)
        flat.graph.node.extend(body.node)
    return flat, [node.name for node in nodes]


def of_body(facts: Mapping[str, Entry], node: str) -> dict[str, Entry]:
    """What `facts` of the flat graph say of the body of that node, under the body's own names."""
    start = _prefix(node)
    return {name.removeprefix(start): fact for name, fact in facts.items() if name.startswith(start)}


def _prefix(node: str) -> str:
    return f"{PREFIX}{node}:"


def _rename(body: onnx.GraphProto, start: str) -> None:
    """Names that the body defines, where it reads them too: onnxruntime takes no name twice, not even in a body."""
    own = {value.name for value in (*body.input, *body.initializer)} | {name for node in body.node for name in node.output}
    own.discard("")
    for value in (*body.input, *body.initializer):
        value.name = start + value.name
    for graph in _graphs(body):
        for node in graph.node:
            node.input[:] = [start + name if name in own else name for name in node.input]
            if graph is body:
                node.output[:] = [start + name if name else "" for name in node.output]
        if graph is not body:
            for output in graph.output:
                output.name = start + output.name if output.name in own else output.name


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _scanned(node: onnx.NodeProto, body: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The inputs of the body: states as they come in, and the first slice of each scanned value."""
    native: dict[str, Any] = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    scanned = native["num_scan_inputs"]
    states = len(node.input) - scanned
    inputs = [value.name for value in body.input]
    made = [_copied(*pair) for pair in zip(node.input[:states], inputs[:states], strict=True)]
    axes = native.get("scan_input_axes") or [0] * scanned
    for source, name, axis in zip(node.input[states:], inputs[states:], axes, strict=True):
        made.append(_constant(f"{name}:first", onnx.TensorProto.INT64, 0))
        made.append(onnx.helper.make_node("Gather", [source, f"{name}:first"], [name], axis=axis))
    return made


def _looped(node: onnx.NodeProto, body: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The inputs of the body: turn 0, a condition that holds, and the states as they come in."""
    turn, go, *states = (value.name for value in body.input)
    copies = [_copied(source, name) for source, name in zip(node.input[2:], states, strict=True)]
    return [_constant(turn, onnx.TensorProto.INT64, 0), _constant(go, onnx.TensorProto.BOOL, 1), *copies]


def _copied(source: str, name: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Identity", [source], [name])


def _constant(name: str, kind: int, value: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Constant", [], [name], value=onnx.helper.make_tensor("", kind, [], [value]))
