"""Merges linears that read the same value (q/k/v, gate/up) into one wide matmul and a split: action "merged", exact to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import GraphModule

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from .fx_graph import add_constant, aten, insert_call
from .fx_linear import FxLinear, linears_of, replace_linear, split_columns
from .fx_pass import FxPass

ACTION = "merged"


@dataclass(frozen=True)
class FxMergeLinear(FxPass):
    """1. Sites of one choice that read the same x: one matmul with the weights [N1 + N2 + ..., K] stacked, as new parameters, its bias if
    any of them has one, and a split. 2. A site that alone reads its x stays as it is."""

    name: ClassVar[str] = "merge_linear"

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites that went into a wide matmul."""
        changed = 0
        for choice in choices:
            if choice.action == ACTION:
                for group in linears_of(graph, choice, sites):
                    if len(group) > 1:
                        _merge(graph, choice.site, group)
                        changed += len(group)
        return changed


def _merge(graph: GraphModule, name: str, group: Sequence[FxLinear]) -> None:
    first = group[0].matmul
    with graph.graph.inserting_before(first):
        weight = add_constant(graph, f"{name}_merged_weight", torch.cat([linear.weight.t() for linear in group]), first)
        bias = _stacked_bias(group)
        held = [] if bias is None else [add_constant(graph, f"{name}_merged_bias", bias, first)]
        wide = insert_call(graph, aten.linear.default, (group[0].x, weight, *held), like=first)
        pieces = split_columns(graph, wide, group)
    for linear, piece in zip(group, pieces, strict=True):
        replace_linear(linear, piece)


def _stacked_bias(group: Sequence[FxLinear]) -> torch.Tensor | None:
    if all(linear.bias is None for linear in group):
        return None
    return torch.cat(
        [linear.weight.new_zeros(linear.weight.shape[1]) if linear.bias is None else linear.bias for linear in group]
    )
