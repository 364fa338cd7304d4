"""Puts linears into float16 or bfloat16: cast before and back behind them, so that the rest stays as it is. Actions "float16",
"bfloat16", "float16_merged" and "bfloat16_merged"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from ..kernels.quantized_linear.formats import Prepared, merge
from .chosen import MERGED, prepared_for
from .fx_graph import add_constant, aten, insert_call
from .fx_linear import FxLinear, linears_of, replace_linear, split_columns
from .fx_pass import FxPass

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""The dtype of each action."""


@dataclass(frozen=True)
class FxHalfLinear(FxPass):
    """1. A site: a cast, a linear in 16 bits and a cast back; sites of one choice that read the same x share the first. 2. "_merged": one
    wide linear between two casts for such sites, and a split. `prepared` maps the id of each site to its weight and bias."""

    name: ClassVar[str] = "half_linear"
    prepared: Mapping[str, Prepared] = field(default_factory=dict, repr=False)

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites. Raises InputError for a site whose weight is not in `prepared` in the dtype of its choice."""
        changed = 0
        for choice in choices:
            dtype = DTYPES.get(choice.action.removesuffix(MERGED))
            if dtype is None:
                continue
            for group in linears_of(graph, choice, sites):
                self._replace(graph, choice, group, dtype)
                changed += len(group)
        return changed

    def _replace(self, graph: GraphModule, choice: Choice, group: Sequence[FxLinear], dtype: torch.dtype) -> None:
        parts = [prepared_for(self.prepared, choice, linear.site) for linear in group]
        anchor = group[0].matmul
        with graph.graph.inserting_before(anchor):
            x = _cast(graph, group[0].x, dtype, anchor)
            if choice.action.endswith(MERGED) and len(group) > 1:
                made = split_columns(graph, _linear(graph, choice.site, x, merge(parts), group[0]), group)
            else:
                made = [_linear(graph, each.site.id, x, part, each) for each, part in zip(group, parts, strict=True)]
        for linear, new in zip(group, made, strict=True):
            replace_linear(linear, new)


def _linear(graph: GraphModule, name: str, x: Node, part: Prepared, like: FxLinear) -> Node:
    """A linear on x in 16 bits and the cast of its output to the dtype of `like`."""
    held = [_constant(graph, name, part.tensors["weight"].T, x, "weight")]
    if part.tensors["bias"].any():
        held.append(_constant(graph, name, part.tensors["bias"], x, "bias"))
    return _cast(graph, insert_call(graph, aten.linear.default, (x, *held), like=like.matmul), like.weight.dtype, like.matmul)


def _cast(graph: GraphModule, x: Node, dtype: torch.dtype, like: Node) -> Node:
    return insert_call(graph, aten._to_copy.default, (x,), {"dtype": dtype}, like=like)


def _constant(graph: GraphModule, site: str, array: np.ndarray, x: Node, name: str) -> Node:
    dtype = x.meta["val"].dtype
    tensor = torch.from_numpy(array.astype(np.float32)).to(dtype)
    return add_constant(graph, f"{site}_{str(dtype).removeprefix('torch.')}_{name}", tensor, x)
