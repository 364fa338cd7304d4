"""Merges linears that read the same value (q/k/v, gate/up) into one wide matmul and a split: action "merged", exact to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.plan import Choice
from ..cost_model.sites import LinearSite, Site
from .chosen import members
from .onnx_pass import OnnxPass, Surgeon, operation

ACTION = "merged"


@dataclass(frozen=True)
class MergeLinear(OnnxPass):
    """1. Sites of one choice that read the same x: MatMul with the weights side by side [K, N1 + N2 + ...], one Add if any of them
    has a bias, one Split. 2. A site that alone reads its x stays as it is."""

    name: ClassVar[str] = "onnx_merge_linear"

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites that went into a wide matmul."""
        surgeon = Surgeon(model)
        changed = 0
        for choice in choices:
            if choice.action == ACTION:
                for group in by_input(surgeon, members(choice, sites)):
                    if len(group) > 1:
                        _merge(surgeon, choice.site, group)
                        changed += len(group)
        surgeon.close()
        return changed


def by_input(surgeon: Surgeon, sites: Sequence[Site]) -> list[list[LinearSite]]:
    """The linear sites that still stand, those that read the same x together, in the order given."""
    groups: dict[str, list[LinearSite]] = {}
    for site in sites:
        if isinstance(site, LinearSite) and surgeon.pending(site):
            groups.setdefault(site.x, []).append(site)
    return list(groups.values())


def linear_arrays(surgeon: Surgeon, site: LinearSite) -> tuple[np.ndarray, np.ndarray | None]:
    """The weight [K, N] and bias [N] (None without one) of a site, with the alpha and beta of a Gemm multiplied in."""
    gemm = next((surgeon.nodes[op] for op in site.ops if surgeon.nodes[op].op_type == "Gemm"), None)
    alpha = gemm.attributes.get_float("alpha", 1.0) if gemm else 1.0
    beta = gemm.attributes.get_float("beta", 1.0) if gemm else 1.0
    stored = surgeon.array(site.weight).astype(np.dtype(site.dtype), copy=False)
    weight = stored.T if site.transposed else stored
    weight = weight if alpha == 1.0 else (weight * np.float64(alpha)).astype(stored.dtype)
    if not site.bias:
        return weight, None
    bias = surgeon.array(site.bias).reshape(-1)
    in_gemm = gemm is not None and len(gemm.inputs) > 2 and gemm.inputs[2] is not None and gemm.inputs[2].name == site.bias
    bias = (bias * np.float64(beta)).astype(stored.dtype) if in_gemm and beta != 1.0 else bias
    return weight, np.broadcast_to(bias, (site.out_features,))


def split(surgeon: Surgeon, value: ir.Value, sizes: Sequence[int], name: str) -> ir.Node:
    """Split `value` [..., sum(sizes)] along its last axis; before opset 13 the sizes are an attribute, then an input."""
    if surgeon.opset < 13:
        return operation("Split", [value], name, outputs=len(sizes), axis=-1, split=list(sizes))
    widths = surgeon.constant(f"{name}.sizes", np.array(sizes, np.int64))
    return operation("Split", [value, widths], name, outputs=len(sizes), axis=-1)


def _merge(surgeon: Surgeon, name: str, group: Sequence[LinearSite]) -> None:
    arrays = [linear_arrays(surgeon, site) for site in group]
    wide = surgeon.constant(f"{name}.merged_weight", np.concatenate([weight for weight, _ in arrays], axis=1))
    nodes = [operation("MatMul", [surgeon.value(group[0].x), wide], f"{name}.merged")]
    if any(bias is not None for _, bias in arrays):
        rows = [np.zeros(w.shape[1], w.dtype) if b is None else b for w, b in arrays]
        bias = surgeon.constant(f"{name}.merged_bias", np.concatenate(rows))
        nodes.append(operation("Add", [nodes[-1].outputs[0], bias], f"{name}.merged_add"))
    parts = split(surgeon, nodes[-1].outputs[0], [site.out_features for site in group], f"{name}.merged_split")
    outputs = {site.output: part for site, part in zip(group, parts.outputs, strict=True)}
    surgeon.replace(group, [*nodes, parts], outputs)
