"""An ONNX graph as Python text, one call a line, so that the diff of two steps is the before/after view."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir


def print_onnx(model: ir.Model) -> str:
    """A function of one line per node: `y = op.MatMul(x, w)  # float32[batch, 384]`. Weights are named, not printed."""
    graph, names = model.graph, _Names()
    arguments = ", ".join(["op", *_arguments(graph, names), "weights"])
    lines = [f"# {domain or 'ai.onnx'} {version}" for domain, version in sorted(model.opset_imports.items())]
    lines += ["", "", f"def model({arguments}):"]
    lines += [f"    {line}" for line in _body(graph, names)]
    return "\n".join([*lines, f"    return {', '.join(names[value] for value in graph.outputs)}", ""])


class _Names:
    """Python identifiers for values, no two alike; weights are written weights["name"]."""

    def __init__(self) -> None:
        self._given: dict[ir.Value, str] = {}
        self._taken = {"op", "weights", "tensor"}

    def __getitem__(self, value: ir.Value | None) -> str:
        if value is None:
            return "None"
        if value.is_initializer():
            return f"weights[{json.dumps(value.name, ensure_ascii=False)}]"
        if not value.name:
            return "_"
        if value not in self._given:
            self._given[value] = self.new(value.name)
        return self._given[value]

    def new(self, text: str) -> str:
        """`text` as an identifier that no other value has."""
        name = re.sub(r"\W", "_", text, flags=re.ASCII)
        name = f"v_{name}" if not name or name[0].isdigit() or keyword.iskeyword(name) else name
        free, count = name, 1
        while free in self._taken:
            count += 1
            free = f"{name}_{count}"
        self._taken.add(free)
        return free


def _arguments(graph: ir.Graph, names: _Names) -> list[str]:
    return [names[value] for value in graph.inputs if not value.is_initializer()]


def _body(graph: ir.Graph, names: _Names) -> Iterator[str]:
    for node in graph:
        operands = [names[value] for value in node.inputs]
        for name, attribute in sorted(node.attributes.items()):
            if attribute.type != ir.AttributeType.GRAPH:
                operands.append(f"{name}={_text(attribute.value)}")
                continue
            inner, function = attribute.as_graph(), names.new(f"{node.name}_{name}")
            yield f"def {function}({', '.join(_arguments(inner, names))}):"
            yield from (f"    {line}" for line in _body(inner, names))
            yield f"    return {', '.join(names[value] for value in inner.outputs)}"
            operands.append(f"{name}={function}")
        domain = "op" if not node.domain else f"op.{re.sub(r'[^0-9a-zA-Z_]', '_', node.domain)}"
        results = ", ".join(names[value] for value in node.outputs)
        call = f"{domain}.{node.op_type}({', '.join(operands)})"
        yield f"{results} = {call}  # {_type(node.outputs[0])}" if node.outputs else call


def _text(value: Any) -> str:
    if isinstance(value, ir.TensorProtocol):
        return f'tensor("{value.dtype.name.lower()}", {list(value.shape)})'
    if isinstance(value, tuple | list):
        return f"[{', '.join(_text(each) for each in value)}]"
    return repr(value if isinstance(value, str | bytes | int | float | None) else str(value))


def _type(value: ir.Value) -> str:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    return f"{dtype}[{', '.join(map(str, value.shape))}]" if value.shape is not None else dtype
