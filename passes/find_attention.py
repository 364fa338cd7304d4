"""`find_attention`: every attention of a net, kept whole as one operator or spelled out around a softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import AttentionSite, Miss
from .attention_down import Weights, descend, down
from .attention_up import Mask, Scores, up
from .attention_walk import Reach, climb, miss
from .axes import Layout, aligned, digits, split, whole
from .closed import escape, removable
from .constants import FLOATS
from .site_names import site_names


def find_attention(net: Net) -> tuple[tuple[AttentionSite, ...], tuple[Miss, ...]]:
    """The attention sites of the main graph in topological order, and a Miss for every softmax or operator that is none.

    Linear in the number of ops: each softmax is visited once and every walk from it is bounded.
    """
    anchors = [op for op in net.ops.values() if op.kind in ("softmax", "attention", "fused_attention")]
    found = [_from_softmax(net, op) if op.kind == "softmax" else _from_operator(net, op) for op in anchors]
    kept = {op.id: op for op, each in zip(anchors, found, strict=True) if isinstance(each, AttentionSite)}
    names = site_names(list(kept.values()))
    sites = tuple(replace(each, id=names[each.id]) for each in found if isinstance(each, AttentionSite))
    return sites, tuple(each for each in found if isinstance(each, Miss))


def _from_softmax(net: Net, softmax: Op) -> AttentionSite | Miss:
    shape = net.shape(softmax.output)
    if shape is None:
        return miss(softmax, "has a shape that is not known, so that its axes cannot be followed.")
    if softmax.attributes.get("axis", -1) != -1:
        return miss(softmax, f"runs over axis {softmax.attributes['axis']}; attention takes it over the last axis, the keys.")
    if len(shape) < 2:
        return miss(softmax, "runs over one axis only, so that there are no queries.")
    rows = (whole("n", shape[-2]), whole("s", shape[-1]))
    layout = (*split("x", shape[:-2]), *rows)
    above = up(net, Scores(softmax.inputs[0], layout), softmax)
    if isinstance(above, Miss):
        return above
    scores, product = above
    below = down(net, softmax, layout, frozenset(net.ops[op].output for op in scores.ops))
    if isinstance(below, Miss):
        return below
    for op, found in ((product, scores.layout), (below.product, below.layout)):
        if found[-2:] != rows or any(part.name != "x" for dimension in found[:-2] for part in dimension):
            return miss(op, "has its axes in an order other than heads, queries, keys.")
    return _assemble(net, softmax, scores, product, below)


def _assemble(net: Net, softmax: Op, scores: Scores, product: Op, weights: Weights) -> AttentionSite | Miss:
    """Name the four-axis values around the two products."""
    n, s = scores.layout[-2:]
    width, depth = _columns(net, product), _columns(net, weights.product)
    if width is None or depth is None:
        return miss(softmax, "stands between matrix products of unknown shape.")
    d, e = whole("d", width[0]), whole("e", depth[1])
    swap_a, swap_b = product.attributes.get("transpose_a"), product.attributes.get("transpose_b")
    q = _operand(net, product, 0, scores.layout, (d, n) if swap_a else (n, d))
    k = _operand(net, product, 1, scores.layout, (s, d) if swap_b else (d, s))
    v = _operand(net, weights.product, 1, weights.layout, (e, s) if weights.product.attributes.get("transpose_b") else (s, e))
    out = descend(net, weights.product.output, (*weights.layout[:-2], n, e))
    dtype = net.values[out[0].value].dtype or ""
    wanted = [reach for reach in reversed(q) if _ready(net, reach, dtype)]
    if not wanted or not k or not v:
        started = list(net.shape(product.inputs[0]) or ())
        return miss(softmax, f"has queries {started} that no value holds with separate axes for batch and heads.")
    problem = ""
    for query in wanted:
        batch, heads = (net.shape(query.value) or ())[:2]
        lead = (digits("x", heads, batch), digits("x", 1, heads))
        if query.layout != (*lead, n, d):
            problem = problem or "queries"
            continue
        output = next((reach for reach in out if reach.layout == (*lead, n, e)), None)
        pair = _key_and_value(net, k, v, dtype, lead, (s, d, e), heads)
        mask = _fitted(net, scores.mask, (*lead, n, s)) if scores.mask else None
        if output is None or pair is None or (scores.mask and mask is None):
            problem = "outputs" if output is None else "keys and values" if pair is None else "masks"
            continue
        key, value, kv_heads, transposed = pair
        core = (*scores.ops, *weights.ops, weights.product.id, *output.ops)
        ops = removable(net, (*core, *query.ops, *key.ops, *value.ops), output.value)
        lost = escape(net, core, ops)
        if lost:
            return miss(softmax, lost)
        shape, factor = net.shape(query.value) or (), scores.scale * query.scale * key.scale
        if value.scale != 1.0:
            return miss(softmax, "weighs values that are scaled in between.")
        return AttentionSite(
            softmax.id, ops, query.value, key.value, value.value, output.value,
            scale=factor * (scores.softcap or 1.0), softcap=scores.softcap,
            mask=mask or "", mask_kind=scores.mask.kind if scores.mask else "additive", causal=False,
            batch=batch, heads=heads, kv_heads=kv_heads, query_length=shape[2], key_length=math.prod(p.size for p in s),
            head_dim=shape[3], key_transposed=transposed, dtype=dtype, form="walk",
        )  # fmt: skip
    return miss(softmax, f"has {problem} that no value holds in the layout [batch, heads, length, width].")


def _columns(net: Net, product: Op) -> tuple[int, int] | None:
    """(inner size, columns) of a matrix product."""
    left, right = net.shape(product.inputs[0]), net.shape(product.output)
    if not left or not right or len(left) < 2:
        return None
    return left[-2 if product.attributes.get("transpose_a") else -1], right[-1]


def _operand(net: Net, product: Op, index: int, layout: Layout, matrix: Layout) -> list[Reach]:
    """The climb from one operand of a product whose output leads with `layout`; [] if its leading axes do not fit."""
    full, shape = net.shape(product.output), net.shape(product.inputs[index])
    if full is None or shape is None or len(shape) < 2 or len(full) != len(layout):
        return []
    lead = aligned(layout[:-2], full[:-2], shape[:-2])
    return [] if lead is None else climb(net, product.inputs[index], (*lead, *matrix))


def _ready(net: Net, reach: Reach, dtype: str) -> bool:
    return len(reach.layout) == 4 and net.values[reach.value].dtype == dtype


def _kv_heads(lead: Layout, heads: int, found: Layout) -> int | None:
    """How many heads `found` holds before they are repeated, None if its leading axes are not those of keys or values."""
    batch, head = found[:2]
    count = math.prod(part.size for part in head)
    return count if batch == lead[0] and heads % count == 0 and head == digits("x", heads // count, count) else None


def _key_and_value(
    net: Net, k: Sequence[Reach], v: Sequence[Reach], dtype: str, lead: Layout, axes: Layout, heads: int
) -> tuple[Reach, Reach, int, bool] | None:
    """The highest key and value with equal, fewest heads: (key, value, heads, whether the key is transposed)."""
    s, d, e = axes
    for place in sorted(range(len(k)), key=lambda index: (_held(k[index]), -index)):
        key = k[place]
        if not _ready(net, key, dtype) or key.layout[2:] not in ((s, d), (d, s)):
            continue
        count = _kv_heads(lead, heads, key.layout)
        for value in reversed(v):
            if (
                _ready(net, value, dtype)
                and value.layout[2:] == (s, e)
                and count
                and _kv_heads(lead, heads, value.layout) == count
            ):
                return key, value, count, key.layout[2:] != (s, d)
    return None


def _held(reach: Reach) -> int:
    return math.prod(part.size for dimension in reach.layout for part in dimension)


def _fitted(net: Net, mask: Mask, wanted: Layout) -> str | None:
    """The mask, or a view of it higher up, as a value that broadcasts to [batch, heads, queries, keys]; None if there is none."""
    for reach in climb(net, mask.value, mask.layout, moves_only=True):
        rank = len(reach.layout)
        if rank <= 4 and all(found in ((), full) for found, full in zip(reach.layout, wanted[4 - rank :], strict=True)):
            return reach.value
    return None


def _from_operator(net: Net, op: Op) -> AttentionSite | Miss:
    shapes = [net.shape(name) for name in op.inputs[:3]]
    if (
        op.kind == "fused_attention"
        or op.attributes.get("layout", "BHND") != "BHND"
        or len(shapes) < 3
        or any(not s or len(s) != 4 for s in shapes)
    ):
        return miss(
            op, "does not take queries, keys and values as [batch, heads, length, width]; it is fused already and left alone."
        )
    if any(op.inputs[4:]) or any(net.consumers(name) or name in net.outputs for name in op.outputs[1:]):
        return miss(op, "keeps a cache or gives more than its result, which no kernel here does.")
    if op.attributes.get("dropout", 0.0):
        return miss(op, "drops weights at random: the model was traced in training mode; trace it in evaluation mode.")
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
    pair = _key_and_value(net, _unrepeated(k), _unrepeated(v), dtype, lead, axes, heads)
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
            first.setdefault(_held(reach), reach)
    return list(first.values())
