"""Puts tables of embeddings into integer codes: actions "int8_rows" and "int4_rows" of `kernels/quantized_embedding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Choice
from ..cost_model.sites import EmbeddingSite, Site
from ..kernels.onnx_forms import EMBEDDING
from ..kernels.quantized_embedding.formats import BITS, PreparedTable
from .chosen import members, prepared_for
from .onnx_pass import OnnxPass, Surgeon


@dataclass(frozen=True)
class QuantizeEmbeddings(OnnxPass):
    """1. A site: GatherBlockQuantized on the codes in the place of its Gather, or in standard ONNX Gathers of codes and scales and a
    DequantizeLinear. `prepared` maps the id of each site to its table in the format that the choice asks for."""

    name: ClassVar[str] = "onnx_quantize_embedding"
    prepared: Mapping[str, PreparedTable] = field(default_factory=dict, repr=False)
    style: OnnxStyle = OnnxStyle.runtime

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites. Raises InputError for a site whose table is not in `prepared` in that format."""
        surgeon, form = Surgeon(model), EMBEDDING[self.style]
        changed = 0
        for choice in choices:
            if choice.action not in BITS:
                continue
            for site in members(choice, sites):
                if isinstance(site, EmbeddingSite) and surgeon.pending(site):
                    table, name = prepared_for(self.prepared, choice, site), f"{site.id}.{choice.action}"
                    body = form.table_nodes(table, surgeon.value(site.indices), site.dtype, name)
                    surgeon.adopt(body.initializers)
                    surgeon.replace([site], body.nodes, {site.output: body.output})
                    changed += 1
        for domain, version in form.runtime_domain_imports().items() if changed else ():
            surgeon.import_domain(domain, version)
        surgeon.close()
        return changed
