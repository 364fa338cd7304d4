"""Puts linears into an integer number format: actions "<format>" and "<format>_merged" of `kernels/quantized_linear`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn
from torch.fx import GraphModule, Node

from ..cost_model.module_op import MODULE_OP, ModuleOp
from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from ..kernels.linear_parts.tuning import most_rows, split_rows
from ..kernels.quantized_linear import torch_cpu, torch_cuda
from ..kernels.quantized_linear.formats import PER_COLUMN, TORCH_FORMATS, TRITON_FORMATS, Prepared, merge
from .chosen import MERGED, prepared_for
from .fx_epilogue import ALONE, FxEpilogue, epilogue_of
from .fx_graph import copy_origin, fake_mode_of, free_name, nodes_by_name, take_over
from .fx_linear import FxLinear, linears_of, replace_linear, split_columns
from .fx_pass import FxPass


def build(prepared: Prepared, activation: str = "none") -> nn.Module:
    """The torch module [..., K] -> [..., N] of any format; an `activation` is for those of Triton."""
    if prepared.base in TRITON_FORMATS:
        return torch_cuda.build(prepared, activation)
    return torch_cpu.build(prepared)


def module_op(prepared: Prepared, epilogue: Sequence[str] = ()) -> ModuleOp:
    """What a call of that module computes: float products with weights that are expanded for each tile of rows (Triton) or once a call
    (blocks), or int8 or fp8 products with inputs that are quantised on the way. `epilogue` are the kinds of the ops that it took in."""
    if prepared.base in TRITON_FORMATS:
        how = {"computed_in": "float8"} if prepared.base == "fp8_token" else {"row_tile": most_rows()}
        behind = {"epilogue": tuple(epilogue)} if epilogue else {}
        bits = 4 if prepared.base == "int4_group_weight" else 8
        return ModuleOp("matmul_nbits", {"bits": bits, "split_rows": split_rows(prepared.in_features), **how, **behind})
    if prepared.base not in PER_COLUMN:
        return ModuleOp("matmul_nbits", {"bits": prepared.scalars["bits"], "block": prepared.scalars["block"]})
    return ModuleOp("matmul_nbits", {"bits": 8, "accuracy_level": 4})


@dataclass(frozen=True)
class FxQuantizeLinear(FxPass):
    """1. "<format>": a call of one small module in the place of the site's matmul, and in the formats of Triton's kernels of the
    activation and the residual behind it. 2. "<format>_merged": one wide module for the sites of a choice that read the same x, and a
    split. The float weight goes where nothing else reads it.

    `prepared` maps the id of each site to its weights in the format that the choice asks for.
    """

    name: ClassVar[str] = "quantize_linear"
    prepared: Mapping[str, Prepared] = field(default_factory=dict, repr=False)

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites. Raises InputError for a site whose weights are not in `prepared` in that format."""
        changed = 0
        for choice in choices:
            if choice.action.removesuffix(MERGED) not in TORCH_FORMATS:
                continue
            for group in linears_of(graph, choice, sites):
                if choice.action.endswith(MERGED) and len(group) > 1:
                    self._merge(graph, choice, group)
                else:
                    for linear in group:
                        self._replace(graph, choice, linear)
                changed += len(group)
        return changed

    def _replace(self, graph: GraphModule, choice: Choice, linear: FxLinear) -> None:
        part = prepared_for(self.prepared, choice, linear.site)
        epilogue = epilogue_of(linear, nodes_by_name(graph)) if part.base in TRITON_FORMATS else ALONE
        with graph.graph.inserting_before(epilogue.last or linear.matmul):
            new = self._call(graph, f"{linear.site.id}_{choice.action}", part, linear, epilogue)
        if epilogue.last is None:
            replace_linear(linear, new)
        else:
            take_over(new, epilogue.last)

    def _merge(self, graph: GraphModule, choice: Choice, group: Sequence[FxLinear]) -> None:
        wide = merge([prepared_for(self.prepared, choice, linear.site) for linear in group])
        with graph.graph.inserting_before(group[0].matmul):
            call = self._call(graph, f"{choice.site}_{choice.action}", wide, group[0])
            pieces = split_columns(graph, call, group)
        for linear, piece in zip(group, pieces, strict=True):
            replace_linear(linear, piece)

    def _call(self, graph: GraphModule, name: str, prepared: Prepared, like: FxLinear, epilogue: FxEpilogue = ALONE) -> Node:
        """A call of a new module on x; its fake value is made from shapes, as packed integer weights have no fake form."""
        target = free_name(graph, name)
        graph.add_submodule(target, build(prepared, epilogue.activation).eval())
        node = graph.graph.call_module(target, (like.x,) if epilogue.residual is None else (like.x, epilogue.residual))
        copy_origin(node, like.matmul)
        node.meta[MODULE_OP] = module_op(prepared, epilogue.kinds)
        x = like.x.meta["val"]
        with fake_mode_of(graph):
            node.meta["val"] = x.new_empty((*x.shape[:-1], prepared.out_features))
        return node
