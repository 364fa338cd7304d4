"""What stands between convolutions on codes and only picks or moves numbers stays on codes: maxima of windows, and channels side by
side. What a convolution reads behind them is bit for bit what it read in codes before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx_ir as ir

from ..kernels.quantized_conv.codes import Codes
from ..kernels.quantized_conv.onnx_body import Body, CodedValue, join_nodes, pool_nodes


class Parts(NamedTuple):
    """A value [B, C, *] as codes whose channels stand side by side: the `nodes` that make them of what is there in codes, and the ops on
    floats that these `stand_for`."""

    nodes: list[ir.Node]
    values: list[CodedValue]
    stand_for: list[ir.Node]


def joined(
    value: ir.Value, codes: Codes, results: Mapping[str, CodedValue], rank: int, name: str
) -> tuple[Body, list[ir.Node]] | None:
    """The body that puts a value in `codes`, and the ops that it stands for; None where the value is not made of `results` alone, those
    whose floats are what their codes stand for. It is no result itself: nothing is put into codes that differ."""
    parts = _parts(value, results, rank, name)
    if parts is None or not parts.stand_for:
        return None
    (first, *others) = parts.values
    if not others and first.codes == codes:
        return Body(parts.nodes, first, []), parts.stand_for
    body = join_nodes(parts.values, codes, name, value.shape)
    return body._replace(nodes=[*parts.nodes, *body.nodes]), parts.stand_for


def _parts(value: ir.Value, results: Mapping[str, CodedValue], rank: int, name: str) -> Parts | None:
    known = results.get(str(value.name))
    if known is not None:
        return Parts([], [known], [])
    node = value.producer()
    if node is None or node.domain or any(x is None for x in node.inputs):
        return None
    below = [_parts(x, results, rank, f"{name}.{place}") for place, x in enumerate(node.inputs) if x is not None]
    found = [part for part in below if part is not None]
    if not found or len(found) < len(below):
        return None
    nodes = [new for part in found for new in part.nodes]
    values = [each for part in found for each in part.values]
    passed = [node, *(old for part in found for old in part.stand_for)]
    if node.op_type == "Concat" and node.attributes.get_int("axis", 0) in (1, 1 - rank):
        return Parts(nodes, values, passed)
    if node.op_type == "MaxPool" and len(node.outputs) == 1:
        settings = {key: attribute.value for key, attribute in node.attributes.items() if key != "storage_order"}
        pooled = [pool_nodes(each, settings, f"{name}.pool{place}") for place, each in enumerate(values)]
        return Parts([*nodes, *(new for body in pooled for new in body.nodes)], [body.output for body in pooled], passed)
    return None
