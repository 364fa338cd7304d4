"""The exact normalisation of an ONNX model that comes before everything else: what is left computes the same, in plain nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from .onnx_duplicates import merge_duplicates
from .onnx_pass import OnnxPass
from .onnx_shapes import computed_targets, fix_reshapes, inferred_sizes


@dataclass(frozen=True)
class CleanUp(OnnxPass):
    """1. Functions are put in where they are called. 2. Constant nodes become initialisers of the main graph, also those of nested
    graphs. 3. Identity nodes go. 4. Nodes that read only constants are computed now, where the result has no more than
    `result_limit` elements or takes the place of as many; a constant of more that others read too stays as it is.
    5. A Reshape that computes its target gets a constant one where the shapes of the inputs prove it. 6. Nodes, functions and
    initialisers that nothing reads go. 7. Of equal initialisers one stays, and of nodes that compute the same from the same values.
    8. Every node gets a name of its own.

    Names of graph inputs and outputs stay; up to IR version 3 every initialiser had to be listed as an input too, and no longer is.
    Needs no choice: `apply(model)`.
    """

    name: ClassVar[str] = "onnx_clean_up"
    result_limit: int = 1 << 16

    def apply(self, model: ir.Model, choices: Sequence[Choice] = (), sites: Mapping[str, Site] | None = None) -> int:
        """See `OnnxPass.apply`; the choices are not read. Counts nodes and initialisers that went or were renamed."""
        before = _size(model)
        common.InlinePass()(model)
        if model.ir_version < 4:
            common.RemoveInitializersFromInputsPass()(model)
            model.ir_version = 4
        self._lift(model)
        _drop_identities(model)
        fold_constants_ir(
            model, input_size_limit=self.result_limit, output_size_limit=self.result_limit, should_fold=self._may_fold
        )
        self._lift(model)
        _drop_identities(model)
        fixed = 0
        if any(True for _ in computed_targets(model.graph)):
            fixed = len(fix_reshapes(model.graph, inferred_sizes(model, {})))
        common.RemoveUnusedNodesPass()(model)
        common.RemoveUnusedFunctionsPass()(model)
        _drop_unread_initializers(model)
        _make_contiguous(model)
        common.DeduplicateHashedInitializersPass()(model)
        merge_duplicates(model)
        return before - _size(model) + fixed + _name_nodes(model)

    def _lift(self, model: ir.Model) -> None:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)

    def _may_fold(self, node: ir.Node) -> bool | None:
        if any(value.is_graph_output() for value in node.outputs):
            return False
        large = [
            v for v in node.inputs if v is not None and v.const_value is not None and v.const_value.size > self.result_limit
        ]
        return False if any(len(value.uses()) > 1 for value in large) else None


def _drop_unread_initializers(model: ir.Model) -> None:
    """A branch that folding left out still counts among the uses of what it read, so that the pass of onnx_ir keeps it."""
    read = {value for node in model.graph.all_nodes() for value in node.inputs} | {v for g in model.graphs() for v in g.outputs}
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            if value not in read and not value.is_graph_input():
                del graph.initializers[name]


def _make_contiguous(model: ir.Model) -> None:
    """The exporter leaves transposed views of weights behind, whose bytes cannot be hashed."""
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
            array = value.const_value.numpy()
            if not array.flags.c_contiguous:
                value.const_value = ir.tensor(np.ascontiguousarray(array), dtype=value.const_value.dtype, name=value.name)


def _size(model: ir.Model) -> int:
    return sum(1 for _ in model.graph.all_nodes()) + sum(len(graph.initializers) for graph in model.graphs())


def _drop_identities(model: ir.Model) -> None:
    """The pass of onnx_ir would make a value from outside a branch of an If the output of that branch, which ONNX forbids."""
    for node in list(model.graph.all_nodes()):
        if node.op_type != "Identity" or node.domain != "" or node.inputs[0] is None or node.graph is None:
            continue
        source, copy = node.inputs[0], node.outputs[0]
        if copy.is_graph_output():
            producer = source.producer()
            if producer is None or producer.graph is not node.graph or source.is_graph_output():
                continue
        name, is_output = copy.name, copy.is_graph_output()
        source.shape = source.shape or copy.shape
        source.type = source.type or copy.type
        copy.replace_all_uses_with(source, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        if is_output:
            source.name = name


def _name_nodes(model: ir.Model) -> int:
    nodes = list(model.graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    used: set[str] = set()
    changed, count = 0, 0
    for node in nodes:
        if not node.name or node.name in used:
            while f"{node.op_type}_{count}" in taken:
                count += 1
            node.name = f"{node.op_type}_{count}"
            taken.add(node.name)
            changed += 1
        used.add(node.name)
    return changed
