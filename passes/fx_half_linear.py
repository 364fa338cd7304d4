"""Puts linears into float16 or bfloat16, actions of the same names: cast before and back behind them, so that the rest stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from ..cost_model.plan import Choice
from ..cost_model.sites import Site
from ..kernels.quantized_linear.formats import Prepared
from .chosen import prepared_for
from .fx_graph import add_constant, aten, insert_call
from .fx_linear import FxLinear, linears_of, replace_linear
from .fx_pass import FxPass

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""The dtype of each action."""


@dataclass(frozen=True)
class FxHalfLinear(FxPass):
    """A site: a cast, a linear in 16 bits and a cast back; sites of one choice that read the same x share the first. `prepared` maps the id
    of each site to its weight and bias."""

    name: ClassVar[str] = "half_linear"
    prepared: Mapping[str, Prepared] = field(default_factory=dict, repr=False)

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the sites. Raises InputError for a site whose weight is not in `prepared` in the dtype of its choice."""
        changed = 0
        for choice in choices:
            for group in linears_of(graph, choice, sites) if choice.action in DTYPES else ():
                self._replace(graph, choice, group)
                changed += len(group)
        return changed

    def _replace(self, graph: GraphModule, choice: Choice, group: Sequence[FxLinear]) -> None:
        dtype = DTYPES[choice.action]
        parts = [prepared_for(self.prepared, choice, linear.site) for linear in group]
        anchor, made = group[0].matmul, []
        with graph.graph.inserting_before(anchor):
            x = _cast(graph, group[0].x, dtype, anchor)
            for linear, part in zip(group, parts, strict=True):
                held = [_constant(graph, linear, part.tensors["weight"].T, dtype, "weight")]
                if linear.bias is not None or part.tensors["bias"].any():
                    held.append(_constant(graph, linear, part.tensors["bias"], dtype, "bias"))
                product = insert_call(graph, aten.linear.default, (x, *held), like=linear.matmul)
                made.append(_cast(graph, product, linear.weight.dtype, linear.matmul))
        for linear, new in zip(group, made, strict=True):
            replace_linear(linear, new)


def _cast(graph: GraphModule, x: Node, dtype: torch.dtype, like: Node) -> Node:
    return insert_call(graph, aten._to_copy.default, (x,), {"dtype": dtype}, like=like)


def _constant(graph: GraphModule, linear: FxLinear, array: np.ndarray, dtype: torch.dtype, name: str) -> Node:
    action = str(dtype).removeprefix("torch.")
    tensor = torch.from_numpy(array.astype(np.float32)).to(dtype)
    return add_constant(graph, f"{linear.site.id}_{action}_{name}", tensor, linear.matmul)
