"""An ONNX graph as Python text, one call a line, so that the diff of two steps is the before/after view."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator

import onnx_ir as ir


def print_onnx(model: ir.Model) -> str:
    """A function of one line per node: `y = op.MatMul(x, w)  # float32[batch, 384]`. Weights are named, not printed."""
    graph = model.graph
    names = _Names()
    arguments = ", ".join(names[value] for value in graph.inputs)
    lines = [f"# {domain or 'ai.onnx'} {version}" for domain, version in sorted(model.opset_imports.items())]
    lines += ["", "", f"def model(op, {arguments}, weights):"]
    lines += [f"    {line}" for line in _body(graph, names)]
    return "\n".join([*lines, f"    return {', '.join(names[value] for value in graph.outputs)}", ""])


class _Names:
    """Python identifiers for values; weights are written weights["name"]."""

    def __getitem__(self, value: ir.Value | None) -> str:
        if value is None:
            return "None"
        if value.is_initializer():
            return f'weights["{value.name}"]'
        text = re.sub(r"\W", "_", str(value.name))
        return f"v_{text}" if not text or text[0].isdigit() or keyword.iskeyword(text) else text


def _body(graph: ir.Graph, names: _Names) -> Iterator[str]:
    for node in graph:
        results = ", ".join(names[value] for value in node.outputs)
        operands = [names[value] for value in node.inputs]
        nested = {name: a.as_graph() for name, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH}
        for name, inner in nested.items():
            yield f"def {re.sub(r'[^0-9a-zA-Z_]', '_', str(node.name))}_{name}():"
            yield from (f"    {line}" for line in _body(inner, names))
            yield f"    return {', '.join(names[value] for value in inner.outputs)}"
        plain = [f"{name}={_text(a)}" for name, a in sorted(node.attributes.items()) if name not in nested]
        domain = "op" if not node.domain else f"op.{node.domain.replace('.', '_')}"
        call = f"{results} = {domain}.{node.op_type}({', '.join([*operands, *plain])})"
        yield f"{call}  # {_type(node.outputs[0])}" if node.outputs else call


def _text(attribute: ir.Attr) -> str:
    value = attribute.value
    if isinstance(value, ir.TensorProtocol):
        return f"<{value.dtype.name.lower()} {list(value.shape)}>"
    return repr(list(value) if isinstance(value, tuple) else value)


def _type(value: ir.Value) -> str:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"
    return f"{dtype}[{', '.join(map(str, value.shape))}]" if value.shape is not None else dtype
