"""Puts linears into two thin products: actions "low_rank_*" of `kernels/low_rank`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from ..kernels.low_rank.factors import SHARES
from ..kernels.quantized_linear.formats import Prepared
from .chosen import prepared_for
from .fx_graph import add_constant, aten, insert_call
from .fx_linear import FxLinear, linears_of, replace_linear
from .fx_pass import FxPass


@dataclass(frozen=True)
class FxLowRank(FxPass):
    """1. A site: a linear with [r, K] and one with [N, r] and the bias, if it has one. 2. Sites of one choice that read the same x share
    the first. `prepared` maps the id of each site to its factors at the rank that the choice asks for."""

    name: ClassVar[str] = "low_rank"
    prepared: Mapping[str, Prepared] = field(default_factory=dict, repr=False)

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites. Raises InputError for a site whose factors are not in `prepared` at that rank."""
        changed = 0
        for choice in choices:
            if choice.action in SHARES:
                for group in linears_of(graph, choice, sites):
                    # The second product has the name of the one it replaced, and fewer rows.
                    dense = [linear for linear in group if len(linear.weight) == linear.site.in_features]
                    self._replace(graph, choice, dense)
                    changed += len(dense)
        return changed

    def _replace(self, graph: GraphModule, choice: Choice, group: Sequence[FxLinear]) -> None:
        if not group:
            return
        parts = [prepared_for(self.prepared, choice, linear.site) for linear in group]
        anchor, made = group[0].matmul, []
        with graph.graph.inserting_before(anchor):
            first = _constant(graph, choice, group[0], parts[0], "first")
            narrow = insert_call(graph, aten.linear.default, (group[0].x, first), like=anchor)
            for linear, part in zip(group, parts, strict=True):
                held = [_constant(graph, choice, linear, part, name) for name in ("second", "bias") if name in part.tensors]
                made.append(insert_call(graph, aten.linear.default, (narrow, *held), like=linear.matmul))
        for linear, new in zip(group, made, strict=True):
            replace_linear(linear, new)


def _constant(graph: GraphModule, choice: Choice, linear: FxLinear, part: Prepared, name: str) -> Node:
    """A new parameter with one tensor of `part`, as a linear stores it and in its dtype."""
    tensor = torch.from_numpy(part.tensors[name]).t().to(linear.weight.dtype)
    return add_constant(graph, f"{linear.site.id}_{choice.action}_{name}", tensor, linear.matmul)
