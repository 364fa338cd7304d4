"""Views that show the heads of folded attention in an ONNX graph, so that the finder can name them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..cost_model.net import Net
from .folded_heads import folded_attentions
from .onnx_pass import Surgeon, operation
from .onnx_shapes import inferred_sizes, sizes

AXES_ARE_AN_INPUT = 13
"""The opset since which Squeeze and Unsqueeze read their axes from an operand."""

OUTER = (0, 4)


def unfold_heads(model: ir.Model, net: Net) -> int:
    """Behind each folded operand or result [B * H, N, D] of an attention that is not found for want of four axes only: a view as
    [B, H, N, D] and one back. Exact at every size, as H is the quotient of two sizes that are constant; none of the nodes moves data.

    `net` is the model as it is. Gives the number of attentions; a second run finds none.
    """
    found = folded_attentions(net)
    proven = inferred_sizes(model, {}) if found else {}
    known = {
        (value, axis) for value, found_sizes in proven.items() for axis, size in enumerate(found_sizes) if isinstance(size, int)
    }
    found = tuple(each for each in found if known.issuperset(each.known_by))
    surgeon = Surgeon(model)
    for value, heads in dict.fromkeys((value, each.heads) for each in found for value in each.values):
        _unfold(surgeon, surgeon.value(value), heads)
    if found:
        surgeon.close()
    return len(found)


def _unfold(surgeon: Surgeon, value: ir.Value, heads: int) -> None:
    """A Reshape copies a size for 0 from the same place only, hence the axis of one element in front, and the one behind so that no value
    of four axes has batch and heads in one."""
    readers = list(value.uses())
    name = f"{value.name}.heads"
    apart = surgeon.shared(np.array([-1, heads, 0, 0], np.int64), f"apart_{heads}_heads")
    joined = surgeon.shared(np.array([1, -1, 0, 0, 1], np.int64), "joined_heads")
    rows = (sizes(value) or (None, None, None))[1:]
    nodes: list[ir.Node] = []
    for op_type, target, shape in (
        ("Unsqueeze", None, (1, None, *rows, 1)),
        ("Reshape", apart, (None, heads, *rows)),
        ("Reshape", joined, (1, None, *rows, 1)),
        ("Squeeze", None, (None, *rows)),
    ):
        source = nodes[-1].outputs[0] if nodes else value
        nodes.append(_node(surgeon, op_type, source, target, f"{name}.{len(nodes)}"))
        made = nodes[-1].outputs[0]
        made.type, made.shape = value.type, ir.Shape(shape)
    surgeon.graph.extend(nodes)
    for node, index in readers:
        node.replace_input_with(index, nodes[-1].outputs[0])


def _node(surgeon: Surgeon, op_type: str, source: ir.Value, target: ir.Value | None, name: str) -> ir.Node:
    if target is not None:
        return operation(op_type, [source, target], name)
    if surgeon.opset < AXES_ARE_AN_INPUT:
        return operation(op_type, [source], name, axes=list(OUTER))
    return operation(op_type, [source, surgeon.shared(np.array(OUTER, np.int64), "outer_axes")], name)
