"""Replaces an attention by spectral sparse attention in a torch.fx graph: action "spectral_sparse", within the error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch.fx import GraphModule, Node

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, Site
from ..kernels.spectral_attention import causal_torch_module, torch_module
from ..kernels.spectral_attention.causal_prepare import CausalPrepared
from ..kernels.spectral_attention.causal_torch_module import CausalSpectralAttention
from ..kernels.spectral_attention.prepare import SparsePrepared
from ..kernels.spectral_attention.torch_cuda import TritonCausalSpectralAttention, TritonSpectralAttention
from ..kernels.spectral_attention.torch_module import SpectralAttention
from .attention_up import MASKED
from .fx_graph import aten, copy_origin, fake_mode_of, free_name, insert_call, node_of_value, nodes_by_name, take_over
from .fx_pass import FxPass

ACTION = "spectral_sparse"


@dataclass(frozen=True)
class FxSparseAttention(FxPass):
    """A call of one small module in the place of a site for which `crossover.refusal` has no sentence.

    1. k stored as k^T is transposed back, a view. 2. A mask that says no more than causality is no longer read, and of one that hides
    padding too only the last row.

    `prepared` maps the id of each site to its codebooks, tiles and budgets.
    """

    name: ClassVar[str] = "sparse_attention"
    prepared: Mapping[str, SparsePrepared | CausalPrepared] = field(default_factory=dict, repr=False)

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites replaced. Raises InputError for a site that is not in the model, or without an entry in `prepared`."""
        changed = 0
        for choice in choices:
            for name in choice.sites if choice.action == ACTION else ():
                site = sites.get(name)
                if not isinstance(site, AttentionSite):
                    raise InputError(
                        f"The plan names the attention site {name!r}, which was not found in this model; make it again."
                    )
                if name not in self.prepared:
                    raise InputError(f"The choice at {choice.site} is {ACTION}, but site {name} has no prepared budgets.")
                # The name of an operator stays with the module that takes its place, so the target is looked at too.
                nodes = nodes_by_name(graph)
                if all(op in nodes and nodes[op].op == "call_function" for op in site.ops):
                    _replace(graph, site, self.prepared[name])
                    changed += 1
        return changed


def _replace(graph: GraphModule, site: AttentionSite, prepared: SparsePrepared | CausalPrepared) -> None:
    output = node_of_value(graph, site.output)
    operands = [node_of_value(graph, name) for name in (site.query, site.key, site.value)]
    target = free_name(graph, f"{site.id}_{ACTION}")
    graph.add_submodule(target, _module(prepared))
    with graph.graph.inserting_before(output):
        if site.key_transposed:
            operands[1] = insert_call(graph, aten.transpose.int, (operands[1], -1, -2), like=output)
        operands += [_key_mask(graph, site, output)] if site.pads_keys else []
        node = graph.graph.call_module(target, tuple(operands))
    copy_origin(node, output)
    query, value = operands[0].meta["val"], operands[2].meta["val"]
    with fake_mode_of(graph):
        node.meta["val"] = query.new_empty((*query.shape[:-1], value.shape[-1]))
    take_over(node, output)


def _module(prepared: SparsePrepared | CausalPrepared) -> SpectralAttention | CausalSpectralAttention:
    if isinstance(prepared, CausalPrepared):
        return causal_torch_module.build(
            prepared, TritonCausalSpectralAttention if prepared.on_cuda else CausalSpectralAttention
        )
    return torch_module.build(prepared, TritonSpectralAttention if prepared.on_cuda else SpectralAttention)


def _key_mask(graph: GraphModule, site: AttentionSite, like: Node) -> Node:
    """Which keys count, bool [B or 1, S], by the last row of every mask."""
    found = []
    for mask in site.every_mask:
        row = insert_call(graph, aten.select.int, (node_of_value(graph, mask.value), -2, -1), like=like)
        while row.meta["val"].ndim > 2:
            row = insert_call(graph, aten.select.int, (row, 1, 0), like=like)
        if row.meta["val"].ndim < 2:
            row = insert_call(graph, aten.unsqueeze.default, (row, 0), like=like)
        if mask.kind == "additive":
            row = insert_call(graph, aten.mul.Scalar, (row, mask.factor), like=like)
            row = insert_call(graph, aten.gt.Scalar, (row, MASKED), like=like)
        found.append(
            insert_call(graph, aten.logical_not.default, (row,), like=like) if mask.kind == "boolean_inverted" else row
        )
    counts = found[0]
    for row in found[1:]:
        counts = insert_call(graph, aten.logical_and.default, (counts, row), like=like)
    return counts
