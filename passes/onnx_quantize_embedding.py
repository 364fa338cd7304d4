"""Puts tables of embeddings into integer codes: actions "int8_rows" and "int4_rows" of `kernels/quantized_embedding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import EmbeddingSite, Site
from ..kernels.quantized_embedding.formats import BITS, PreparedTable
from .onnx_pass import MICROSOFT, OnnxPass, Surgeon, members, operation


@dataclass(frozen=True)
class QuantizeEmbeddings(OnnxPass):
    """1. A site: GatherBlockQuantized on the codes in the place of its Gather. `prepared` maps the id of each site to its table in the
    format that the choice asks for."""

    name: ClassVar[str] = "onnx_quantize_embedding"
    prepared: Mapping[str, PreparedTable] = field(default_factory=dict, repr=False)

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites. Raises InputError for a site whose table is not in `prepared` in that format."""
        surgeon = Surgeon(model)
        changed = 0
        for choice in choices:
            if choice.action not in BITS:
                continue
            for site in members(choice, sites):
                if isinstance(site, EmbeddingSite) and surgeon.pending(site):
                    _replace(surgeon, choice, site, table_of(self.prepared, choice, site))
                    changed += 1
        if changed:
            surgeon.import_domain(MICROSOFT)
        surgeon.close()
        return changed


def table_of(prepared: Mapping[str, PreparedTable], choice: Choice, site: EmbeddingSite) -> PreparedTable:
    """The table of a site in codes; InputError where there is none, or one of another format."""
    found = prepared.get(site.id)
    if found is None or found.action != choice.action:
        held = "no table in codes" if found is None else f"one in {found.action}"
        raise InputError(f"The choice at {choice.site} is {choice.action}, but for site {site.id} there is {held}.")
    return found


def _replace(surgeon: Surgeon, choice: Choice, site: EmbeddingSite, table: PreparedTable) -> None:
    name = f"{site.id}.{choice.action}"
    codes = surgeon.constant(f"{name}.codes", table.codes)
    scale = surgeon.constant(f"{name}.scale", table.scale.astype(np.dtype(site.dtype)))
    node = operation(
        "GatherBlockQuantized", [codes, surgeon.value(site.indices), scale], name, domain=MICROSOFT,
        bits=table.bits, block_size=table.group, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    surgeon.replace([site], [node], {site.output: node.outputs[0]})
