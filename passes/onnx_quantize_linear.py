"""Puts linears into an integer number format: actions "<format>" and "<format>_merged" of `kernels/quantized_linear`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Choice
from ..cost_model.sites import LinearSite, Site
from ..kernels.onnx_forms import LINEAR
from ..kernels.quantized_linear.formats import ONNX_FORMATS, Prepared, merge
from ..kernels.quantized_linear.half_formats import HALF_FORMATS
from ..kernels.quantized_linear.onnx_body import Body, QuantizedInputs
from ..kernels.quantized_linear.onnx_half import half_nodes
from .chosen import MERGED, members, prepared_for
from .onnx_casts import drop_round_trips
from .onnx_merge_linear import by_input, split
from .onnx_pass import OnnxPass, Surgeon


@dataclass(frozen=True)
class QuantizeLinears(OnnxPass):
    """1. "<format>": the nodes of that format in the place of the site's; sites that read the same x with the same scale share one
    quantisation of it. 2. "<format>_merged": one wide linear in that format for the sites of a choice that read the same x, and a split.

    `prepared` maps the id of each site to its weights in the format that the choice asks for.
    """

    name: ClassVar[str] = "onnx_quantize_linear"
    prepared: Mapping[str, Prepared] = field(default_factory=dict, repr=False)
    style: OnnxStyle = OnnxStyle.runtime

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites. Raises InputError for a site whose weights are not in `prepared` in that format."""
        surgeon = Surgeon(model)
        shared = QuantizedInputs(surgeon.opset)
        changed = 0
        for choice in choices:
            if choice.action.removesuffix(MERGED) not in ONNX_FORMATS:
                continue
            for group in by_input(surgeon, members(choice, sites)):
                if choice.action.endswith(MERGED) and len(group) > 1:
                    self._merge(surgeon, choice, group, shared)
                else:
                    for site in group:
                        self._replace(surgeon, choice, site, shared)
                changed += len(group)
        for domain, version in LINEAR[self.style].runtime_domain_imports().items() if changed else ():
            surgeon.import_domain(domain, version)
        if shared.halves:
            drop_round_trips(surgeon)
        surgeon.close()
        return changed

    def _replace(self, surgeon: Surgeon, choice: Choice, site: LinearSite, shared: QuantizedInputs) -> None:
        body = self._nodes(prepared_for(self.prepared, choice, site), surgeon, site, f"{site.id}.{choice.action}", shared)
        surgeon.adopt(body.initializers)
        surgeon.replace([site], body.nodes, {site.output: body.output})

    def _merge(self, surgeon: Surgeon, choice: Choice, group: Sequence[LinearSite], shared: QuantizedInputs) -> None:
        name = f"{group[0].id}.{choice.action}"
        wide = merge([prepared_for(self.prepared, choice, site) for site in group])
        body = self._nodes(wide, surgeon, group[0], name, shared)
        surgeon.adopt(body.initializers)
        parts = split(surgeon, body.output, [site.out_features for site in group], f"{name}.split")
        outputs = {site.output: part for site, part in zip(group, parts.outputs, strict=True)}
        surgeon.replace(group, [*body.nodes, parts], outputs)

    def _nodes(self, prepared: Prepared, surgeon: Surgeon, site: LinearSite, name: str, shared: QuantizedInputs) -> Body:
        if prepared.base in HALF_FORMATS:
            return half_nodes(prepared, surgeon.value(site.x), site.dtype, name, shared.halves)
        return LINEAR[self.style].linear_nodes(prepared, surgeon.value(site.x), name, shared)
