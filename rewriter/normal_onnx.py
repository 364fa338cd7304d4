"""The normal form of a loaded ONNX model: one graph of named nodes, constants as initialisers, inputs that are only inputs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def normalise(model: ir.Model) -> ir.Model:
    """Brings `model` to normal form in place and gives it back. Nothing that it computes changes.

    1. Functions are put in where they are called. 2. Initialisers are no inputs (they had to be up to IR version 3). 3. Constant nodes
    become initialisers of their own graph. 4. An Identity of an initialiser goes, so that shared weights are seen as weights.
    5. Nodes are in topological order. 6. Every node has a name that no other node has; one without a name gets "<operator>_<position>".
    7. Every value has a name that is unique.
    """
    if model.functions:
        common.InlinePass()(model)
    common.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, 4)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _see_through_identities(model.graph)
    common.TopologicalSortPass()(model)
    _name_nodes(model)
    common.NameFixPass()(model)
    return model


def float_dtypes(model: ir.Model) -> set[str]:
    """The float dtypes of its weights, as numpy calls them."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    names = {tensor.dtype.name.lower() for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point()}
    return {{"float": "float32", "double": "float64"}.get(name, name) for name in names}


def _see_through_identities(graph: ir.Graph) -> None:
    for node in list(graph):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            continue
        source, output = node.inputs[0], node.outputs[0]
        if source is not None and source.is_initializer() and source.graph is graph and not output.is_graph_output():
            output.replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _name_nodes(model: ir.Model) -> None:
    """Names by position, so that two loads of one file agree; a taken name gets the first free "_<number>" behind it."""
    nodes = list(model.graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for position, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{position}"
        if name in seen or (not node.name and name in taken):
            base = name
            while name in seen or name in taken:
                counts[base] = counts.get(base, 0) + 1
                name = f"{base}_{counts[base]}"
        seen.add(name)
        node.name = name
