"""Puts tables of embeddings into integer codes: actions "int8_rows" and "int4_rows" of `kernels/quantized_embedding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch.fx import GraphModule, Node

from ..cost_model.module_op import MODULE_OP, ModuleOp
from ..cost_model.plan import Choice
from ..cost_model.sites import EmbeddingSite, Site
from ..kernels.quantized_embedding.formats import BITS, PreparedTable
from ..kernels.quantized_embedding.torch_module import build
from .chosen import members, prepared_for
from .fx_graph import aten, copy_origin, free_name, nodes_by_name, take_over
from .fx_pass import FxPass


@dataclass(frozen=True)
class FxQuantizeEmbedding(FxPass):
    """1. A site: a call of one small module, which holds the codes, in the place of its embedding. `prepared` maps the id of each site
    to its table in the format that the choice asks for."""

    name: ClassVar[str] = "quantize_embedding"
    prepared: Mapping[str, PreparedTable] = field(default_factory=dict, repr=False)

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites. Raises InputError for a site whose table is not in `prepared` in that format."""
        nodes, changed = nodes_by_name(graph), 0
        for choice in choices:
            for site in members(choice, sites) if choice.action in BITS else ():
                node = nodes.get(site.ops[0]) if isinstance(site, EmbeddingSite) else None
                if isinstance(site, EmbeddingSite) and node is not None and node.target is aten.embedding.default:
                    _replace(graph, node, site, prepared_for(self.prepared, choice, site))
                    changed += 1
        return changed


def _replace(graph: GraphModule, node: Node, site: EmbeddingSite, table: PreparedTable) -> None:
    target = free_name(graph, f"{site.id}_{table.action}")
    graph.add_submodule(target, build(table, node.meta["val"].dtype))
    with graph.graph.inserting_before(node):
        call = graph.graph.call_module(target, (node.args[1],))
    copy_origin(call, node)
    call.meta[MODULE_OP] = ModuleOp("embedding", {"axis": 0})
    call.meta["val"] = node.meta["val"]
    take_over(call, node)
