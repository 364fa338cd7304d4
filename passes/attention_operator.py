"""An op that already is attention, as a site: with operands [batch, heads, length, width], or in a layout of its own and kept as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..cost_model.net import Net, Op
from ..cost_model.sites import AttentionSite, Miss
from .attention_heads import held, key_and_value
from .attention_walk import Reach, climb, miss
from .axes import digits, whole
from .closed import removable
from .constants import FLOATS


def from_operator(net: Net, op: Op) -> AttentionSite | Miss:
    """The site of an op of kind "attention" or "fused_attention", or a Miss."""
    if op.attributes.get("dropout", 0.0):
        return miss(op, "drops weights at random: the model was traced in training mode; trace it in evaluation mode.")
    shapes = [net.shape(name) for name in op.inputs[:3]]
    plain = op.kind == "attention" and op.attributes.get("layout", "BHND") == "BHND"
    whole_rows = len(shapes) == 3 and all(shape is not None and len(shape) == 4 for shape in shapes)
    more = any(op.inputs[4:]) or any(net.consumers(name) or name in net.outputs for name in op.outputs[1:])
    return _apart(net, op) if plain and whole_rows and not more else _packed(net, op)


def _packed(net: Net, op: Op) -> AttentionSite | Miss:
    """An op with heads side by side, with q, k and v in one, or with a cache: priced and named, and rewritten by nothing here."""
    attributes = op.attributes
    rows, result = net.shape(op.inputs[0]), net.shape(op.output)
    heads = attributes.get("heads") or attributes.get("num_heads") or (1 if rows and len(rows) == 3 else 0)
    if not rows or not result or not heads or len(rows) not in (3, 4, 5):
        return miss(op, "is attention over operands of a shape that is not known.")
    length, width = rows[2 if len(rows) == 4 else 1], rows[-1]
    if len(rows) == 3:
        apart = op.kind == "attention" and len(op.inputs) > 1 and op.inputs[1]
        width = (rows if apart else result)[-1] // heads
    key, value, mask = ((*op.inputs, "", "", "", "")[1:4]) if op.kind == "attention" else ("", "", "")
    keys = net.shape(op.outputs[1]) if len(op.outputs) > 1 and op.outputs[1] else net.shape(key)
    places = {4: -2, 3: 1}.get(len(keys or ()), 0) if keys and op.kind == "attention" else 0
    scale = attributes.get("scale")
    return AttentionSite(
        op.id, (op.id,), op.inputs[0], key or op.inputs[0], value or op.inputs[0], op.output,
        scale=float(scale) if scale else 1.0 / math.sqrt(width), softcap=float(attributes.get("softcap", 0.0)),
        mask=mask, mask_kind="boolean" if mask and net.values[mask].dtype == "bool" else "additive",
        causal=bool(attributes.get("is_causal", attributes.get("unidirectional", False))), batch=rows[0], heads=heads,
        kv_heads=attributes.get("kv_heads") or heads, query_length=length, key_length=keys[places] if keys and places else length,
        head_dim=width, key_transposed=False, dtype=net.values[op.inputs[0]].dtype or "", form="packed",
    )  # fmt: skip


def _apart(net: Net, op: Op) -> AttentionSite | Miss:
    shapes = [net.shape(name) for name in op.inputs[:3]]
    dtype = net.values[op.inputs[0]].dtype or ""
    (batch, heads, length, width), key_shape, value_shape = (tuple(shape or ()) for shape in shapes)
    axes = (whole("s", key_shape[2]), whole("d", width), whole("e", value_shape[3]))
    lead = (digits("x", heads, batch), digits("x", 1, heads))
    if heads % key_shape[1] or dtype not in FLOATS:
        return miss(op, f"has {heads} heads over {key_shape[1]} heads of keys on {dtype}, which no kernel here takes.")
    start = (lead[0], digits("x", heads // key_shape[1], key_shape[1]))
    k = climb(net, op.inputs[1], (*start, *axes[:2]), moves_only=True)
    v = climb(net, op.inputs[2], (*start, axes[0], axes[2]), moves_only=True)
    k = [reach for reach in k if reach.layout[2:] == axes[:2]]
    pair = key_and_value(net, _unrepeated(k), _unrepeated(v), dtype, lead, axes, heads)
    if pair is None:
        return miss(op, "repeats keys and values in different ways.")
    key, value, kv_heads, _ = pair
    mask = op.inputs[3] if len(op.inputs) > 3 else ""
    scale = op.attributes.get("scale")
    return AttentionSite(
        op.id, removable(net, (op.id, *key.ops, *value.ops), op.output), op.inputs[0], key.value, value.value, op.output,
        scale=1.0 / math.sqrt(width) if scale is None else float(scale), softcap=float(op.attributes.get("softcap", 0.0)),
        mask=mask, mask_kind="boolean" if mask and net.values[mask].dtype == "bool" else "additive",
        causal=bool(op.attributes.get("is_causal", False)), batch=batch, heads=heads, kv_heads=kv_heads, query_length=length,
        key_length=key_shape[2], head_dim=width, key_transposed=False, dtype=dtype, form="operator",
    )  # fmt: skip


def _unrepeated(reaches: Sequence[Reach]) -> list[Reach]:
    """The operand itself, and the first above it of each smaller number of heads: nothing is gained by going above a mere view."""
    first: dict[int, Reach] = {}
    for reach in reaches:
        if len(reach.layout) == 4:
            first.setdefault(held(reach), reach)
    return list(first.values())
