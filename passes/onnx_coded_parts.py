"""What stands between convolutions on codes and only picks or moves numbers stays on codes: maxima of windows, and channels side by
side. What a convolution reads behind them is bit for bit what it read in codes before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ..kernels.quantized_conv.codes import Codes
from ..kernels.quantized_conv.onnx_body import Body, CodedValue, join_nodes, pool_nodes


@dataclass(eq=False)
class CodedParts:
    """Values made of `results` (those whose floats are what their codes stand for), for readers that are nodes called one of `readers`.
    `known`: values and the codes whose channels stand side by side in them, as far as they were made."""

    readers: Collection[str]
    results: dict[str, CodedValue] = field(default_factory=dict)
    known: dict[str, list[CodedValue]] = field(default_factory=dict)

    def joined(self, value: ir.Value, codes: Codes, rank: int, name: str) -> tuple[Body, list[ir.Node]] | None:
        """The body that puts a value [B, C, *] in `codes`, and the ops on floats that nobody needs then; None where the value is no such
        op's, or where some other reader would need them still."""
        ops = _passed(value, self.results, rank)
        if not ops or not all(self._passes(node, ops) for node in ops):
            return None
        nodes: list[ir.Node] = []
        parts = self._parts(value, nodes, name)
        if len(parts) == 1 and parts[0].codes == codes:
            return Body(nodes, parts[0], []), ops
        body = join_nodes(parts, codes, name, value.shape)
        return body._replace(nodes=[*nodes, *body.nodes]), ops

    def _passes(self, node: ir.Node, ops: Collection[ir.Node]) -> bool:
        users = (user for user, _ in node.outputs[0].uses())
        return not node.outputs[0].is_graph_output() and all(user in ops or user.name in self.readers for user in users)

    def _parts(self, value: ir.Value, nodes: list[ir.Node], name: str) -> list[CodedValue]:
        label, node = str(value.name), value.producer()
        if label in self.results:
            return [self.results[label]]
        if label not in self.known:
            assert node is not None
            below = [self._parts(x, nodes, f"{name}.{place}") for place, x in enumerate(node.inputs) if x is not None]
            parts = [part for each in below for part in each]
            if node.op_type == "MaxPool":
                settings = {key: attribute.value for key, attribute in node.attributes.items() if key != "storage_order"}
                pooled = [pool_nodes(part, settings, f"{name}.pool{place}") for place, part in enumerate(parts)]
                nodes += [new for body in pooled for new in body.nodes]
                parts = [body.output for body in pooled]
            self.known[label] = parts
        return self.known[label]


def _passed(value: ir.Value, results: Mapping[str, CodedValue], rank: int) -> list[ir.Node] | None:
    """The ops on floats between `results` and a value, none where it is one of them; None where there are others among them."""
    if str(value.name) in results:
        return []
    node = value.producer()
    if node is None or not (_puts_side_by_side(node, rank) or _takes_maxima(node)):
        return None
    below = [None if x is None else _passed(x, results, rank) for x in node.inputs]
    found = [ops for ops in below if ops is not None]
    return list(dict.fromkeys([node, *(op for ops in found for op in ops)])) if len(found) == len(below) else None


def _puts_side_by_side(node: ir.Node, rank: int) -> bool:
    return not node.domain and node.op_type == "Concat" and node.attributes.get_int("axis", 0) in (1, 1 - rank)


def _takes_maxima(node: ir.Node) -> bool:
    """A window that is all padding has no maximum: none is where sizes are rounded down."""
    return (
        not node.domain and node.op_type == "MaxPool" and len(node.outputs) == 1 and not node.attributes.get_int("ceil_mode", 0)
    )
