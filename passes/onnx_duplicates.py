"""Merges nodes that compute the same: exporters write the sizes of a tensor, and the mask of a layer, anew wherever they are read."""

from __future__ import annotations

import onnx_ir as ir

_RANDOM = frozenset(
    ["Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)
_NESTED = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)


def merge_duplicates(model: ir.Model) -> int:
    """Let the readers of a node read the first node of equal operator, inputs and attributes instead; how many nodes went.

    Main graph only, nodes of one output that draws no random numbers and is no graph output. The model must be in topological order.
    """
    first: dict[object, ir.Value] = {}
    changed = 0
    for node in list(model.graph):
        key = _key(node)
        if key is None:
            continue
        output = node.outputs[0]
        known = first.setdefault(key, output)
        if known is not output and not output.is_graph_output():
            output.replace_all_uses_with(known)
            model.graph.remove(node, safe=True)
            changed += 1
    return changed


def _key(node: ir.Node) -> object | None:
    if len(node.outputs) != 1 or node.op_type in _RANDOM:
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref() or attribute.type in _NESTED:
            return None
        plain = isinstance(attribute.value, (int, float, str, bytes))
        attributes.append((name, attribute.value if plain else tuple(attribute.value)))
    # A value is equal to itself alone, so that inputs are compared as places in the graph.
    return node.op_identifier(), node.inputs, tuple(attributes)
