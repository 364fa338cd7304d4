"""Puts linears into two thin products: actions "low_rank_*" of `kernels/low_rank`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.plan import Choice
from ..cost_model.sites import LinearSite, Site
from ..kernels.low_rank.factors import SHARES
from ..kernels.quantized_linear.formats import Prepared
from .chosen import members, prepared_for
from .onnx_merge_linear import by_input
from .onnx_pass import OnnxPass, Surgeon, operation


@dataclass(frozen=True)
class LowRankLinears(OnnxPass):
    """1. A site: MatMul with [K, r], MatMul with [r, N], and an Add where it has a bias. 2. Sites of one choice that read the same x share
    the first MatMul. `prepared` maps the id of each site to its factors at the rank that the choice asks for."""

    name: ClassVar[str] = "onnx_low_rank"
    prepared: Mapping[str, Prepared] = field(default_factory=dict, repr=False)

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites. Raises InputError for a site whose factors are not in `prepared` at that rank."""
        surgeon = Surgeon(model)
        changed = 0
        for choice in choices:
            if choice.action in SHARES:
                for group in by_input(surgeon, members(choice, sites)):
                    self._replace(surgeon, choice, group)
                    changed += len(group)
        surgeon.close()
        return changed

    def _replace(self, surgeon: Surgeon, choice: Choice, group: Sequence[LinearSite]) -> None:
        dtype = np.dtype(group[0].dtype)
        parts = [prepared_for(self.prepared, choice, site) for site in group]
        names = [f"{site.id}.{choice.action}" for site in group]
        first = surgeon.constant(f"{names[0]}.first", parts[0].tensors["first"].astype(dtype))
        nodes = [operation("MatMul", [surgeon.value(group[0].x), first], f"{names[0]}.narrow")]
        narrow, outputs = nodes[0].outputs[0], {}
        for site, part, name in zip(group, parts, names, strict=True):
            second = surgeon.constant(f"{name}.second", part.tensors["second"].astype(dtype))
            nodes.append(operation("MatMul", [narrow, second], f"{name}.wide"))
            if "bias" in part.tensors:
                bias = surgeon.constant(f"{name}.bias", part.tensors["bias"].astype(dtype))
                nodes.append(operation("Add", [nodes[-1].outputs[0], bias], f"{name}.add"))
            outputs[site.output] = nodes[-1].outputs[0]
        surgeon.replace(group, nodes, outputs)
