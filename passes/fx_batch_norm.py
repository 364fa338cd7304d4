"""Folds a batch norm in inference mode into the convolution before it: action "fold_batch_norm", exact to rounding."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import ConvSite, Site
from .fx_graph import add_constant, aten, constant_of, insert_call, nodes_by_name, take_over
from .fx_pass import FxPass

ACTION = "fold_batch_norm"
EPSILON = {aten._native_batch_norm_legit_no_training.default: 6, aten.native_batch_norm.default: 7, aten.batch_norm.default: 7}
"""Each spelling of a batch norm and the position of its epsilon; all begin with x, gamma, beta, mean, variance."""


@dataclass(frozen=True)
class FxBatchNorm(FxPass):
    """With s = gamma / sqrt(var + eps): w' = w s, b' = (b - mean) s + beta, in float64, stored in the dtype of w.

    1. A convolution [C_out, C_in / groups, *kernel] is scaled along its first axis. 2. A transposed one [C_in, C_out / groups, *kernel]
    along its second, group by group.
    """

    name: ClassVar[str] = ACTION

    def rewrite(self, graph: GraphModule, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """Counts the batch norms folded. Raises InputError for a site that was not found in this graph."""
        changed = 0
        for choice in choices:
            for name in choice.sites if choice.action == ACTION else ():
                site = sites.get(name)
                if not isinstance(site, ConvSite):
                    raise InputError(
                        f"The plan names the convolution site {name!r}, which was not found in this model; make it again."
                    )
                changed += _fold(graph, site)
        return changed


def _fold(graph: GraphModule, site: ConvSite) -> int:
    nodes = nodes_by_name(graph)
    norm = nodes.get(site.batch_norm)
    conv = next((nodes[op] for op in site.ops if op in nodes and nodes[op].target is aten.convolution.default), None)
    if norm is None or conv is None or norm.target not in EPSILON:
        return 0
    if EPSILON[norm.target] == 7 and norm.args[5] is not False:
        raise InputError(
            f"Site {site.id!r} has a batch norm in training mode, which cannot be folded; call eval() on the model first."
        )
    gamma, beta, mean, variance = (_vector(graph, site, norm, index) for index in (1, 2, 3, 4))
    weight, bias = constant_of(graph, conv.args[1]), constant_of(graph, conv.args[2])
    if weight is None or (bias is None and conv.args[2] is not None) or mean is None or variance is None:
        raise InputError(f"Site {site.id!r} has weights or statistics that are not constants of this model; leave it as it is.")
    epsilon = norm.args[EPSILON[norm.target]]
    scale = torch.rsqrt(variance + float(epsilon))  # type: ignore[arg-type]
    scale = scale if gamma is None else scale * gamma
    shift = ((0 if bias is None else bias.double()) - mean) * scale + (0 if beta is None else beta)
    with graph.graph.inserting_before(conv):
        held = [
            add_constant(graph, f"{site.id}_folded_{kind}", tensor.to(weight.dtype), conv)
            for kind, tensor in (("weight", _scaled(weight, scale, conv)), ("bias", shift))
        ]
        folded = insert_call(graph, conv.target, (conv.args[0], *held, *conv.args[3:]), like=conv)
    _replace(norm, folded)
    return 1


def _scaled(weight: torch.Tensor, scale: torch.Tensor, conv: Node) -> torch.Tensor:
    transposed, groups = bool(conv.args[6]), int(conv.args[8])  # type: ignore[arg-type]
    rest = [1] * (weight.dim() - 2)
    if not transposed:
        return weight.double() * scale.reshape(-1, 1, *rest)
    by_group = weight.double().unflatten(0, (groups, -1)) * scale.reshape(groups, 1, -1, *rest)
    return by_group.flatten(0, 1)


def _vector(graph: GraphModule, site: ConvSite, norm: Node, index: int) -> torch.Tensor | None:
    """Operand `index` of the norm in float64; None where it has none."""
    if norm.args[index] is None:
        return None
    found = constant_of(graph, norm.args[index])
    if found is None:
        raise InputError(f"Site {site.id!r} has a batch norm whose operand {index} is computed; leave it as it is.")
    return found.double()


def _replace(norm: Node, folded: Node) -> None:
    """`folded` takes the place of what reads the first output of the norm."""
    if norm.target is aten.batch_norm.default:
        take_over(folded, norm)
        return
    for user in list(norm.users):
        if user.target is operator.getitem and user.args[1] == 0:
            take_over(folded, user)
