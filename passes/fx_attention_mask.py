"""The mask of an attention as torch's operator takes it: boolean, or additive in the dtype of the queries, with four axes."""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from ..cost_model.sites import AttentionSite, SiteMask
from .fx_graph import aten, insert_call, node_of_value, nodes_by_name

RANK = 4


def attention_mask(graph: GraphModule, site: AttentionSite, query: Node, output: Node) -> Node:
    """The mask at the insertion point of the graph, as `FxAttention` says; new nodes are like `output`."""
    if site.masks:
        return _four_axes(graph, _joined(graph, site, query, output), output)
    mask = node_of_value(graph, site.mask)
    like = query.meta["val"]
    if site.mask_kind == "additive":
        if mask.meta["val"].dtype != like.dtype:
            mask = insert_call(graph, aten._to_copy.default, (mask,), {"dtype": like.dtype}, like=output)
    else:
        if site.mask_kind == "boolean_inverted":
            mask = insert_call(graph, aten.logical_not.default, (mask,), like=output)
        finite = _fills_with_finite(graph, site)
        if finite or site.sink:
            low = torch.finfo(like.dtype).min if finite else -math.inf
            numbers = [_scalar(graph, number, query, output) for number in (0.0, low)]
            mask = insert_call(graph, aten.where.self, (mask, *numbers), like=output)
    return _four_axes(graph, mask, output)


def beside_sink(
    graph: GraphModule, site: AttentionSite, operands: tuple[Node, Node, Node], mask: Node | None, output: Node
) -> tuple[Node, Node, Node]:
    """(key, value, mask) with one more key and value of zeros, so that its score is what the mask says there, the sink.

    `operands` are q, k and v, each [batch, heads, length, width]; `mask` is additive.
    """
    query, key, value = operands
    like = query.meta["val"]
    longer = [insert_call(graph, aten.constant_pad_nd.default, (node, [0, 0, 0, 1]), like=output) for node in (key, value)]
    rows = [_size(graph, source, axis, output) for source, axis in ((query, 0), (query, 1), (query, 2))]
    if mask is None:
        mask = _four_axes(graph, _scalar(graph, 0.0, query, output), output)
    sink = node_of_value(graph, site.sink)
    if sink.meta["val"].dtype != like.dtype:
        sink = insert_call(graph, aten._to_copy.default, (sink,), {"dtype": like.dtype}, like=output)
    columns = [
        insert_call(graph, aten.expand.default, (part, [*rows, width]), like=output)
        for part, width in ((mask, _size(graph, key, 2, output)), (_four_axes(graph, sink, output), 1))
    ]
    return longer[0], longer[1], insert_call(graph, aten.cat.default, (columns, -1), like=output)


def _size(graph: GraphModule, source: Node, axis: int, output: Node) -> int | Node:
    size = source.meta["val"].shape[axis]
    return size if isinstance(size, int) else insert_call(graph, aten.sym_size.int, (source, axis), like=output)


def _four_axes(graph: GraphModule, mask: Node, output: Node) -> Node:
    while mask.meta["val"].dim() < RANK:
        mask = insert_call(graph, aten.unsqueeze.default, (mask, 0), like=output)
    return mask


def _joined(graph: GraphModule, site: AttentionSite, query: Node, output: Node) -> Node:
    """What all masks together do to scores of 0, in their order: exact, since what is filled in is far below any score."""
    total: Node | None = None
    for mask in site.masks:
        value = _seen_as(graph, site, mask, query, output)
        if mask.kind == "additive":
            if value.meta["val"].dtype != query.meta["val"].dtype:
                value = insert_call(graph, aten._to_copy.default, (value,), {"dtype": query.meta["val"].dtype}, like=output)
            if mask.factor != 1.0:
                value = insert_call(graph, aten.mul.Tensor, (value, mask.factor), like=output)
            total = value if total is None else insert_call(graph, aten.add.Tensor, (total, value), like=output)
            continue
        low = -math.inf if math.isinf(mask.fill) else torch.finfo(query.meta["val"].dtype).min
        kept = _scalar(graph, 0.0, query, output) if total is None else total
        branches = (kept, _scalar(graph, low, query, output))
        branches = branches if mask.kind == "boolean" else branches[::-1]
        total = insert_call(graph, aten.where.self, (value, *branches), like=output)
    assert total is not None
    return total


def _seen_as(graph: GraphModule, site: AttentionSite, mask: SiteMask, query: Node, output: Node) -> Node:
    """The value of a mask so that it broadcasts over the scores; the batch is left to the reshape, as a trace may have had one row."""
    value = node_of_value(graph, mask.value)
    if not mask.axes:
        return value
    key = node_of_value(graph, site.key)
    lengths = {"N": (query, 2), "S": (key, 3 if site.key_transposed else 2)}
    sizes: dict[str, int | Node] = {"B": -1, "H": site.heads, "1": 1}
    sizes |= {axis: _size(graph, source, place, output) for axis, (source, place) in lengths.items()}
    return insert_call(graph, aten.reshape.default, (value, [sizes[axis] for axis in mask.axes]), like=output)


def _scalar(graph: GraphModule, number: float, query: Node, output: Node) -> Node:
    like = query.meta["val"]
    return insert_call(graph, aten.scalar_tensor.default, (number,), {"dtype": like.dtype, "device": like.device}, like=output)


def _fills_with_finite(graph: GraphModule, site: AttentionSite) -> bool:
    """Whether the site writes a finite number, not -inf, where its mask leaves out."""
    nodes = nodes_by_name(graph)
    for node in (nodes[name] for name in site.ops):
        operands = node.args[1:3] if node.target is aten.where.self else ()
        if node.target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.ScalarOther):
            operands = node.args[2:3]
        numbers = [number for number in map(_number, operands) if number is not None]
        if numbers:
            return math.isfinite(numbers[0])
    return False


def _number(operand: object) -> float | None:
    if isinstance(operand, (int, float)):
        return float(operand)
    if isinstance(operand, Node) and operand.target in (aten.scalar_tensor.default, aten.full.default):
        number = operand.args[0 if operand.target is aten.scalar_tensor.default else 1]
        return float(number) if isinstance(number, (int, float)) else None
    return None
