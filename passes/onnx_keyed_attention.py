"""Puts the padding mask of a fused attention into its keys: action "keyed_attention", equal to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.net import Net
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, Site
from .chosen import members
from .onnx_attention import ACTION as FUSED
from .onnx_attention import KEYED as ACTION
from .onnx_attention import refusal as fused_refusal
from .onnx_pass import CUT_OUT, OnnxPass, Surgeon, operation
from .onnx_wider_columns import Wider

HIDDEN = -1e4
"""Scores of hidden keys are this much lower: their weights are exp(-10,000), which is 0 in float32."""


@dataclass(frozen=True)
class MaskInKeys(OnnxPass):
    """onnxruntime's MultiHeadAttention takes its fast path only where it reads no mask. Each head gets one more column: ones in the
    queries and the mask of its token in the keys, so that their product adds the mask to the scores. The columns come for nothing out of
    the linears before: zero weights, and a bias of one. The guard against rows that see nothing goes: such a row sees all.

    Works behind `FuseAttention` and after linears have their formats.
    """

    name: ClassVar[str] = "onnx_keyed_attention"

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the attentions. Raises InputError where what makes the queries or keys of one is no linear."""
        surgeon = Surgeon(model)
        masks: dict[tuple[object, ...], ir.Value] = {}
        changed = 0
        for choice in choices:
            for site in members(choice, sites) if choice.action == ACTION else ():
                node = surgeon.nodes.get(f"{site.id}.{FUSED}")
                if isinstance(site, AttentionSite) and node is not None and len(node.inputs) > 5:
                    changed += _keyed(surgeon, site, node, masks)
        surgeon.close()
        return changed


def refusal(site: AttentionSite, net: Net) -> str:
    """One sentence that says why the mask cannot move into the keys; "" if it can."""
    if reason := fused_refusal(site, net):
        return reason
    if not site.pads_keys or site.mask_is_causal or site.causal or site.masks:
        return f"Attention {site.id} has no mask that hides the same keys from every query."
    shape = net.shape(site.mask)
    if site.sink or site.softcap or site.kv_heads != site.heads or shape is None or len(shape) != 4 or shape[1] != 1:
        return f"Attention {site.id} has a sink, a softcap, shared heads or a mask for each head, which keep its mask apart."
    return ""


def _keyed(surgeon: Surgeon, site: AttentionSite, node: ir.Node, masks: dict[tuple[object, ...], ir.Value]) -> bool:
    """Whether the mask is in the keys now; not in a cut-out that lacks what it takes, while a model that does is an InputError."""
    roles = (node.inputs[0], (1.0, 0.0)), (node.inputs[1], (0.0,))
    for what, (value, fills) in zip(("queries", "keys"), roles, strict=True):
        if value is None or _planned(surgeon, site, value, fills) is None:
            if CUT_OUT in surgeon.model.metadata_props:
                return False
            raise InputError(
                f"What makes the {what} of attention {site.id} is no linear layer that can give each head one more column, so its mask "
                "cannot move into the keys; choose fused_attention for it."
            )
    nodes: list[ir.Node] = []
    key = site.mask, site.mask_kind, site.heads, site.head_dim, site.scale
    if key not in masks:
        masks[key] = _columns(surgeon, site, nodes)
    for place, (value, fills) in enumerate(roles):
        assert value is not None
        # Again, since what makes the keys may be what made the queries, which has other constants now.
        found = _planned(surgeon, site, value, fills)
        assert found is not None
        wider, filled = found
        wider.apply()
        if not filled:
            added = masks[key] if place else surgeon.shared(_places(site, 1.0), f"ones_{site.heads}_{site.head_dim}")
            nodes.append(operation("Add", [value, added], f"{site.id}.{ACTION}.{('query', 'key')[place]}"))
            node.replace_input_with(place, nodes[-1].outputs[0])
    surgeon.graph.insert_before(node, nodes)
    bias = node.inputs[5]
    node.resize_inputs(3)
    _without_guard(surgeon, node)
    if bias is not None and (producer := bias.producer()) is not None:
        surgeon.sweep([producer])
    return True


def _planned(surgeon: Surgeon, site: AttentionSite, value: ir.Value, fills: Sequence[float]) -> tuple[Wider, float] | None:
    """How `value` gets one more column a head, and the first of `fills` that its linears can put there; None where they cannot."""
    slots = [site.head_dim * (head + 1) for head in range(site.heads)]
    for fill in fills:
        wider = Wider(surgeon, site.heads)
        if wider.plan(value, slots, fill):
            return wider, fill
    return None


def _places(site: AttentionSite, number: float) -> np.ndarray:
    """[H * (D + 1)]: `number` in the last column of each head, else 0."""
    places = np.zeros((site.heads, site.head_dim + 1), np.float32)
    places[:, -1] = number
    return places.reshape(-1)


def _columns(surgeon: Surgeon, site: AttentionSite, nodes: list[ir.Node]) -> ir.Value:
    """[B, S, H * (D + 1)]: 0, and in the last column of each head what the scores of a hidden key are lowered by, over the scale."""
    name = f"{site.id}.key_mask"
    low = surgeon.shared(np.array(HIDDEN, np.float32), "hidden")
    last = surgeon.shared(np.array(-1, np.int64), "last")
    nodes.append(operation("Gather", [surgeon.value(site.mask), last], f"{name}.row", axis=2))
    row = nodes[-1].outputs[0]
    if site.mask_kind == "additive":
        nodes.append(operation("Max", [row, low], f"{name}.finite"))
    else:
        zero = surgeon.shared(np.zeros((), np.float32), "attended")
        branches = (zero, low) if site.mask_kind == "boolean" else (low, zero)
        nodes.append(operation("Where", [row, *branches], f"{name}.additive"))
    nodes.append(operation("Transpose", [nodes[-1].outputs[0]], f"{name}.column", perm=(0, 2, 1)))
    at = surgeon.constant(f"{name}.places", _places(site, 1 / site.scale))
    nodes.append(operation("Mul", [nodes[-1].outputs[0], at], f"{name}.columns"))
    return nodes[-1].outputs[0]


def _without_guard(surgeon: Surgeon, node: ir.Node) -> None:
    result = node.outputs[0]
    guards = [user for user, _ in result.uses() if user.op_type == "Where"]
    tests = [user for user, _ in result.uses() if user.op_type == "IsNaN"]
    if len(guards) != 1 or len(tests) != 1 or len(result.uses()) != 2:
        return
    old = guards[0].outputs[0]
    result.shape, result.type = old.shape, old.type
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    name, old.name = str(old.name), f"{old.name}.guarded"
    result.name = name
    surgeon.values[name] = result
    surgeon.sweep([guards[0]])
