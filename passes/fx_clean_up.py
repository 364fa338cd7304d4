"""Clean-up of a torch.fx graph: what computes nothing goes, what is computed twice is computed once. Exact to rounding: without a copy
an operand has other strides, and a kernel may then sum in another order (seen at 3e-7 on Whisper)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from .fx_graph import aten, attribute, is_pure, relax_views, same_shape
from .fx_pass import FxPass

ASSERTS = {
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
    torch._check,
}
COPIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
}
CASTS = {aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device}
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
SAME_WHEN_SAME_SHAPE = {aten.expand.default, aten.slice.Tensor, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims}
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default}
VIEWS = RESHAPES | {aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default, aten.expand.default}


@dataclass(frozen=True)
class FxCleanUp(FxPass):
    """Each node is visited once, in order, so a second run finds nothing. The rules:

    1. an assertion about metadata goes;
    2. a copy or a dropout that is switched off is its operand, unless it copies an input or a weight, which the caller may write to;
    3. a cast to the dtype and device that the operand has already is its operand;
    4. a reshape of a reshape is one reshape, and a reshape, expand, slice, squeeze or permute that changes nothing is its operand;
    5. the only piece of a split is what was split;
    6. an integer plus 0, and anything times 1, is itself where shape and dtype stay;
    7. a pure node equal to an earlier one is that one, and so are two names of one weight.

    Views become reshapes, since 2 changes strides.
    """

    name: ClassVar[str] = "clean_up"

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice] = (), sites: Mapping[str, Site] | None = None) -> int:
        before = len(graph.graph.nodes)
        changed = relax_views(graph)
        seen: dict[Any, Node] = {}
        for node in list(graph.graph.nodes):
            if node.target in ASSERTS and not node.users:
                graph.graph.erase_node(node)
                changed += 1
                continue
            changed += _shorten(node)
            same = _operand_that_equals(node)
            if same is None and is_pure(node):
                same = seen.setdefault(_key(graph, node), node)
            if same is not None and same is not node:
                node.replace_all_uses_with(same)
                graph.graph.erase_node(node)
                changed += 1
        graph.graph.eliminate_dead_code()
        return changed or before - len(graph.graph.nodes)


def _shorten(node: Node) -> int:
    """Rule 4, first half: reads through the reshape before a reshape."""
    if node.target in RESHAPES and isinstance(node.args[0], Node) and node.args[0].target in RESHAPES:
        node.update_arg(0, node.args[0].args[0])
        return 1
    return 0


def _operand_that_equals(node: Node) -> Node | None:
    """The operand that this node only repeats (rules 2 to 6), None if it does something."""
    operand = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(operand, Node):
        return None
    target, value, source = node.target, node.meta.get("val"), operand.meta.get("val")
    if target is operator.getitem:
        return _whole_split(operand)
    if not isinstance(value, torch.Tensor) or not isinstance(source, torch.Tensor):
        return None
    if (value.dtype, value.device) != (source.dtype, source.device) or not same_shape(value, source):
        return None
    off = target is aten.dropout.default and node.args[2:] == (False,)
    if target in COPIES or target in CASTS or off:
        return None if _is_input_or_weight(operand) else operand
    if target in RESHAPES or target in SAME_WHEN_SAME_SHAPE:
        step = node.args[4] if target is aten.slice.Tensor and len(node.args) > 4 else 1
        return operand if step == 1 else None
    if target is aten.permute.default:
        rank = source.dim()
        return operand if [axis % rank for axis in node.args[1]] == list(range(rank)) else None  # type: ignore[union-attr,operator]
    neutral = not node.kwargs and len(node.args) == 2 and isinstance(node.args[1], (int, float)) and not source.dtype.is_complex
    if neutral and target in (aten.add.Tensor, aten.sub.Tensor) and not source.dtype.is_floating_point:
        return operand if node.args[1] == 0 else None
    if neutral and target in (aten.mul.Tensor, aten.div.Tensor):
        return operand if node.args[1] == 1 else None
    return None


def _whole_split(split: Node) -> Node | None:
    pieces, source = split.meta.get("val"), split.args[0] if split.args else None
    if split.target not in SPLITS or not isinstance(pieces, (list, tuple)) or len(pieces) != 1 or not isinstance(source, Node):
        return None
    return source


def _is_input_or_weight(node: Node) -> bool:
    while node.target in VIEWS and isinstance(node.args[0], Node):
        node = node.args[0]
    return node.op in ("placeholder", "get_attr")


def _key(graph: GraphModule, node: Node) -> Any:
    """Equal for two nodes exactly when they compute the same: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if node.op == "get_attr":
        return ("get_attr", id(attribute(graph, str(node.target))))

    def freeze(item: Any) -> Any:
        if isinstance(item, Node):
            return item
        if isinstance(item, (list, tuple)):
            return tuple(freeze(part) for part in item)
        if isinstance(item, Mapping):
            return tuple((name, freeze(part)) for name, part in sorted(item.items()))
        return (type(item), repr(item))

    return (node.target, freeze(node.args), freeze(node.kwargs))
