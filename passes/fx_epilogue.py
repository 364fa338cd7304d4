"""What a kernel with an epilogue takes in behind a linear layer of a torch.fx graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from .fx_graph import aten, same_shape
from .fx_linear import FxLinear

ACTIVATIONS: Mapping[tuple[Any, ...], str] = {
    (aten.relu.default,): "relu",
    (aten.gelu.default,): "gelu",
    (aten.silu.default,): "silu",
    (aten.sigmoid.default, aten.mul.Tensor): "silu",
}
"""The operators of an activation, in order, and its name."""


@dataclass(frozen=True)
class FxEpilogue:
    """activation(x W + b) + residual: `activation` is one of the `ACTIVATIONS` of kernels.linear_parts.epilogue, `residual` a node of the
    shape and dtype of the result, or None; `last` is the node that the whole takes the place of, None where it is the layer alone."""

    activation: str = "none"
    residual: Node | None = None
    last: Node | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the ops that it takes in (words of `cost_model.kinds`)."""
        activation = () if self.activation == "none" else (self.activation,)
        return activation if self.residual is None else (*activation, "add")


ALONE = FxEpilogue()
"""A layer and nothing behind it."""


def epilogue_of(linear: FxLinear, nodes: Mapping[str, Node]) -> FxEpilogue:
    """What its site says stands behind it, as far as the graph still has that; `nodes` are those of the graph, by name."""
    last, activation = linear.add or linear.matmul, "none"
    behind = [nodes[name] for name in linear.site.activation if name in nodes]
    if set(last.users) == set(behind) and (name := ACTIVATIONS.get(tuple(node.target for node in behind))):
        last, activation = behind[-1], name
    add = nodes.get(linear.site.residual)
    if add is not None and add.target is aten.add.Tensor and list(last.users) == [add] and len(add.all_input_nodes) == 2:
        (residual,) = (node for node in add.all_input_nodes if node is not last)
        values = [node.meta["val"] for node in (residual, add)]
        # Sizes that are equal for this sample alone would broadcast for another.
        if same_shape(*values) and values[0].dtype == last.meta["val"].dtype:
            return FxEpilogue(activation, residual, add)
    return FxEpilogue(activation, None, last) if activation != "none" else ALONE
