"""`find_attention`: every attention of a net, kept whole as one operator or spelled out around a softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import AttentionSite, Miss
from .attention_down import Weights, descend, down
from .attention_heads import key_and_value, ready
from .attention_masks import fits, stated, summary
from .attention_operator import from_operator
from .attention_up import Scores, up
from .attention_walk import Reach, climb, miss
from .axes import Layout, aligned, digits, split, whole
from .closed import escape, removable
from .site_names import site_names


@dataclass(frozen=True)
class Walk:
    """What stands around a softmax: the two products, the layouts of the axes n, s, d, e (queries, keys, width of the keys and of the
    values), the values above the operands q, k and v, and below the result, nearest first."""

    scores: Scores
    product: Op
    weights: Weights
    axes: Layout
    q: Sequence[Reach]
    k: Sequence[Reach]
    v: Sequence[Reach]
    out: Sequence[Reach]


def find_attention(net: Net) -> tuple[tuple[AttentionSite, ...], tuple[Miss, ...]]:
    """The attention sites of the main graph in topological order, and a Miss for every softmax or operator that is none.

    Linear in the number of ops: each softmax is visited once and every walk from it is bounded.
    """
    anchors = [op for op in net.ops.values() if op.kind in ("softmax", "attention", "fused_attention")]
    found = [_from_softmax(net, op) if op.kind == "softmax" else from_operator(net, op) for op in anchors]
    kept = {op.id: op for op, each in zip(anchors, found, strict=True) if isinstance(each, AttentionSite)}
    names = site_names(list(kept.values()))
    sites = tuple(replace(each, id=names[each.id]) for each in found if isinstance(each, AttentionSite))
    return sites, tuple(each for each in found if isinstance(each, Miss))


def _from_softmax(net: Net, softmax: Op) -> AttentionSite | Miss:
    found = walk(net, softmax)
    return found if isinstance(found, Miss) else _assemble(net, softmax, found)


def walk(net: Net, softmax: Op) -> Walk | Miss:
    """Up and down from a softmax: the two products around it, and what their operands and their result are views of."""
    shape = net.shape(softmax.output)
    if shape is None:
        return miss(softmax, "has a shape that is not known, so that its axes cannot be followed.")
    if softmax.attributes.get("axis", -1) != -1:
        return miss(softmax, f"runs over axis {softmax.attributes['axis']}; attention takes it over the last axis, the keys.")
    if len(shape) < 2:
        return miss(softmax, "runs over one axis only, so that there are no queries.")
    layout = (*split("x", shape[:-2]), whole("n", shape[-2]), whole("s", shape[-1]))
    above = up(net, Scores(softmax.inputs[0], layout), softmax)
    if isinstance(above, Miss):
        return above
    scores, product = above
    below = down(net, softmax, layout, frozenset(net.ops[op].output for op in scores.ops))
    if isinstance(below, Miss):
        return below
    cut = "" if scores.sink is None else "first" if scores.sink.first else "last"
    if below.cut != cut:
        return miss(
            softmax, "has a column beside the scores or one cut off the weights, but not the same, so it is no attention sink."
        )
    rows = (layout[-2], scores.layout[-1])
    for op, found in ((product, scores.layout), (below.product, below.layout)):
        if found[-2:] != rows or any(part.name != "x" for dimension in found[:-2] for part in dimension):
            return miss(op, "has its axes in an order other than heads, queries, keys.")
    return _operands(net, softmax, scores, product, below)


def _operands(net: Net, softmax: Op, scores: Scores, product: Op, weights: Weights) -> Walk | Miss:
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
    return Walk(scores, product, weights, (n, s, d, e), q, k, v, out)


def _assemble(net: Net, softmax: Op, found: Walk) -> AttentionSite | Miss:
    """Name the four-axis values around the two products."""
    scores, product, weights, q, k, v, out = found.scores, found.product, found.weights, found.q, found.k, found.v, found.out
    n, s, d, e = found.axes
    dtype = net.values[out[0].value].dtype or ""
    wanted = [reach for reach in reversed(q) if ready(net, reach, dtype)]
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
        pair = key_and_value(net, k, v, dtype, lead, (s, d, e), heads)
        masks = stated(net, scores.masks, (*lead, n, s))
        sink = fits(net, scores.sink.value, scores.sink.layout, (*lead, n, ())) if scores.sink else ""
        if output is None or pair is None or masks is None or sink is None:
            problem = "outputs" if output is None else "keys and values" if pair is None else "masks"
            continue
        mask, kind = summary(masks)
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
            mask=mask, mask_kind=kind, causal=False, masks=masks if kind == "several" else (), sink=sink,
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
