"""A `LinearSite` in a torch.fx graph: its nodes, its weights, and how new nodes take its place."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import LinearSite, Site
from .fx_graph import aten, constant_of, insert_call, is_pure, nodes_by_name, take_over

PLAIN = {aten.mm.default, aten.matmul.default, aten.bmm.default}
MATMULS = PLAIN | {aten.addmm.default, aten.linear.default}


@dataclass(frozen=True)
class FxLinear:
    """y = x W + b: `matmul` multiplies, `weight` [K, N], `bias` [N] or None; `add` adds the bias behind the matmul (None where the matmul
    does that itself)."""

    site: LinearSite
    matmul: Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    add: Node | None

    @property
    def x(self) -> Node:
        """What the matmul reads now, [..., K]: layers of one weight may read each other, and the first may have been replaced."""
        return _operand(self.matmul)  # type: ignore[return-value]


def linears_of(graph: GraphModule, choice: Choice, sites: Mapping[str, Site]) -> list[list[FxLinear]]:
    """The linear sites of a choice that still stand, those that read the same x together, in graph order.

    Raises InputError for a site that was not found in this graph or whose weight is not a constant of it.
    """
    nodes, order = nodes_by_name(graph), {node: index for index, node in enumerate(graph.graph.nodes)}
    found = [linear for name in choice.sites if (linear := _linear_of(graph, name, sites, nodes)) is not None]
    groups: list[list[FxLinear]] = []
    for linear in sorted(found, key=lambda each: order[each.matmul]):
        group = next((g for g in groups if _same(g[0].x, linear.x)), None)
        groups.append([linear]) if group is None else group.append(linear)
    return groups


def replace_linear(linear: FxLinear, new: Node) -> None:
    """`new`, which holds x W + b, takes the place of the matmul; an add of the bias behind it goes."""
    take_over(new, linear.matmul)
    if linear.add is not None:
        operand = next(node for node in linear.add.all_input_nodes if node.op != "get_attr")
        take_over(operand, linear.add)


def split_columns(graph: GraphModule, wide: Node, group: Sequence[FxLinear]) -> list[Node]:
    """One node for each linear of the group: its columns of `wide` [..., sum of N], a view."""
    widths = [linear.weight.shape[1] for linear in group]
    pieces = insert_call(graph, aten.split_with_sizes.default, (wide, widths, -1), like=group[0].matmul)

    return [insert_call(graph, operator.getitem, (pieces, i), like=linear.matmul) for i, linear in enumerate(group)]


def _linear_of(graph: GraphModule, name: str, sites: Mapping[str, Site], nodes: Mapping[str, Node]) -> FxLinear | None:
    site = sites.get(name)
    if not isinstance(site, LinearSite):
        raise InputError(f"The plan names the linear site {name!r}, which was not found in this model; make the plan again.")
    matmul = next((nodes[op] for op in site.ops if op in nodes and nodes[op].target in MATMULS), None)
    if matmul is None:
        return None
    addend, scale, share = None, 1.0, 1.0
    if matmul.target is aten.addmm.default:
        addend, _, stored = matmul.args[:3]
        scale, share = float(matmul.kwargs.get("alpha", 1)), float(matmul.kwargs.get("beta", 1))  # type: ignore[arg-type]
    else:
        _, stored, *rest = matmul.args
        addend = rest[0] if rest else matmul.kwargs.get("bias")
    weight = constant_of(graph, stored)
    if weight is None or weight.dim() != 2 or not isinstance(_operand(matmul), Node):
        raise InputError(f"The weight of site {name!r} is not a constant matrix of this model, so the plan does not fit it.")
    weight = weight.t() if matmul.target is aten.linear.default else weight
    bias = _bias(graph, name, addend, share, weight)
    add = None
    if site.output != matmul.name:
        add = nodes.get(site.output)
        operands = [] if add is None else [constant_of(graph, node) for node in add.all_input_nodes]
        added = next((constant for constant in operands if constant is not None), None)
        if add is None or add.target is not aten.add.Tensor or added is None:
            raise InputError(
                f"Site {name!r} ends in {site.output!r}, which is not an add of a constant bias; make the plan again."
            )
        behind = added.reshape(-1).expand(weight.shape[1])
        bias = behind if bias is None else bias + behind
    return FxLinear(site, matmul, weight if scale == 1.0 else weight * scale, bias, add)


def _operand(matmul: Node) -> object:
    return matmul.args[1 if matmul.target is aten.addmm.default else 0]


def _bias(graph: GraphModule, name: str, addend: object, share: float, weight: torch.Tensor) -> torch.Tensor | None:
    if addend is None:
        return None
    bias = constant_of(graph, addend)
    if bias is None or bias.numel() not in (1, weight.shape[1]):
        raise InputError(f"Site {name!r} adds a computed value in its matmul, not a constant bias; leave it as it is.")
    bias = bias.reshape(-1).expand(weight.shape[1])
    return bias if share == 1.0 else bias * share


def _same(left: object, right: object) -> bool:
    """Whether two operands are one value: the same node, or equal pure ops on the same values."""
    if left is right:
        return True
    if isinstance(left, Node) and isinstance(right, Node):
        alike = (
            is_pure(left) and left.target == right.target and left.kwargs == right.kwargs and len(left.args) == len(right.args)
        )
        return alike and all(_same(a, b) for a, b in zip(left.args, right.args, strict=True))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return not isinstance(left, Node) and type(left) is type(right) and left == right
