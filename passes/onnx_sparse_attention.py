"""Replaces an attention by spectral sparse attention in standard ONNX operators: action "spectral_sparse", within the error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, Site
from ..kernels.spectral_attention.causal_onnx import causal_nodes
from ..kernels.spectral_attention.causal_prepare import CausalPrepared
from ..kernels.spectral_attention.onnx_body import OPSET, attention_nodes
from ..kernels.spectral_attention.onnx_builder import Builder
from ..kernels.spectral_attention.prepare import SparsePrepared
from .attention_up import MASKED
from .chosen import members
from .onnx_pass import OnnxPass, Surgeon, operation

ACTION = "spectral_sparse"


@dataclass(frozen=True)
class SparsifyAttention(OnnxPass):
    """The nodes of `attention_nodes`, or `causal_nodes`, in the place of a site for which `crossover.refusal` has no sentence.

    1. k stored as k^T is transposed back. 2. A model in an operator set before `OPSET` is left as it is. 3. A mask that says no more than
    causality is no longer read, and of one that hides padding too only the last row.

    `prepared` maps the id of each site to its codebooks, tiles and budgets.
    """

    name: ClassVar[str] = "onnx_sparse_attention"
    prepared: Mapping[str, SparsePrepared | CausalPrepared] = field(default_factory=dict, repr=False)

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the attentions. Raises InputError for a site without an entry in `prepared`."""
        surgeon = Surgeon(model)
        found = [site for choice in choices if choice.action == ACTION for site in members(choice, sites)]
        pending = [site for site in found if isinstance(site, AttentionSite) and surgeon.pending(site)]
        if surgeon.opset < OPSET:
            pending = []
        for site in pending:
            if site.id not in self.prepared:
                raise InputError(f"The choice at {site.id} is {ACTION}, but there are no prepared budgets for it.")
            _replace(surgeon, site, self.prepared[site.id])
        surgeon.close()
        return len(pending)


def _replace(surgeon: Surgeon, site: AttentionSite, prepared: SparsePrepared | CausalPrepared) -> None:
    name = f"{site.id}.{ACTION}"
    query, key, value = (surgeon.value(each) for each in (site.query, site.key, site.value))
    nodes: list[ir.Node] = []
    if site.key_transposed:
        nodes.append(operation("Transpose", [key], f"{name}.key", perm=(0, 1, 3, 2)))
        key = nodes[-1].outputs[0]
    mask = _key_mask(surgeon, site, query, key, f"{name}.mask", nodes) if site.pads_keys else None
    if isinstance(prepared, CausalPrepared):
        body = causal_nodes(query, key, value, prepared, site.kv_heads, name, surgeon.opset, mask)
    else:
        body = attention_nodes(query, key, value, prepared, name, mask)
    surgeon.adopt(body.initializers)
    surgeon.replace([site], [*nodes, *body.nodes], {site.output: body.output})


def _key_mask(
    surgeon: Surgeon, site: AttentionSite, query: ir.Value, key: ir.Value, name: str, nodes: list[ir.Node]
) -> ir.Value:
    """Which keys count, bool [B, S], by the last row of every mask, and the nodes for it behind `nodes`."""
    build = Builder(name)
    length, found = build("Shape", key, start=2, end=3), []
    for mask in site.every_mask:
        row = build("Slice", surgeon.value(mask.value), build.sizes(-1), build.sizes(np.iinfo(np.int64).max), build.sizes(-2))
        row = build.reshape(row, -1, length)
        if mask.kind == "additive":
            row = row if mask.factor == 1 else build("Mul", row, build.float(mask.factor))
            row = build("Greater", row, build.float(MASKED))
        found.append(build("Not", row) if mask.kind == "boolean_inverted" else row)
    counts = found[0]
    for row in found[1:]:
        counts = build("And", counts, row)
    counts = build("Expand", counts, build.join(build("Shape", query, start=0, end=1), 1))
    surgeon.adopt(build.initializers.values())
    nodes += build.nodes
    return counts
