"""Causal spectral attention as standard ONNX operators (opset 15 or later), equal to `causal.py`, for every length in one file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...cost_model.errors import InputError
from .causal_onnx_step import Sequence, Step
from .causal_onnx_tables import by_content, slopes_of, tables_of
from .causal_prepare import CausalPrepared
from .onnx_body import OPSET, SparseBody
from .onnx_builder import Builder


def causal_nodes(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    prepared: CausalPrepared,
    kv_heads: int,
    name: str | Builder,
    opset: int = OPSET,
    key_mask: ir.Value | None = None,
) -> SparseBody:
    """The operator on float32 `query` [B, H, N, D], `key` [B, Hkv, N, D], `value` [B, Hkv, N, Dv] and, where there is one, bool `key_mask`
    [B, N], True where a token counts; names start with `name` (or a builder of that name makes them), and the nodes are those of operator
    set `opset`.

    All sizes but H and Hkv come from Shape, and the exact tiles from TopK with k = Min(budget, tiles), so that short lengths come out exact
    and there is no If. A step of one Scan takes as many queries as a segment has, all of which see the same segments closed: its tables end
    where its past does, so that nothing is computed that the mask would hide, and stay in the cache. Own keys, exact tiles and the means of
    the others are three attentions, added by their masses; only the exact tiles take nodes for each budget, the rest serves all heads.

    Raises InputError for budgets below zero, heads that do not fit each other, or a layout whose sink is no key tile.
    """
    heads, layout = len(prepared.budgets), prepared.layout
    if heads % kv_heads or min((budget for budget in prepared.budgets if budget is not None), default=0) < 0 or not layout.sink:
        raise InputError(
            f"Causal spectral attention cannot read {kv_heads} key heads with budgets {prepared.budgets} and {layout}."
        )
    build = Builder(name) if isinstance(name, str) else name
    size, segment = layout.query_tile, layout.segment
    per = segment // size
    batch, length, width = (build("Shape", query, start=axis, end=axis + 1) for axis in (0, 2, 3))
    depth = build("Shape", value, start=3, end=4)
    order_of, place_of = None, build.unsqueeze(build.range(length), 0)
    if key_mask is not None:
        order_of, place_of = _padding_last(build, key_mask, length)
        key, value = (_moved(build, x, order_of, kv_heads, batch, length, each) for x, each in ((key, width), (value, depth)))
    front = layout.front
    steps = build.ceil_div(build("Add", length, build.sizes(front)), build.sizes(segment))
    rows = build("Mul", steps, build.sizes(segment))
    tile = build("Sub", build.range(build("Mul", steps, build.sizes(per))), build.sizes(front // size))

    order = [head for members in prepared.groups.values() for head in members]
    behind = build("Sub", build("Add", rows, build.sizes(layout.sink)), length)
    keys, values = (build.end_padded(x, 4, 2, behind, build.float(0.0)) for x in (key, value))
    near = tables_of(build, keys, values, width, depth, layout, size)
    far = tables_of(build, *by_content(build, keys, values, width, depth, layout), width, depth, layout, segment)
    tables = [
        build.reshape(build("Concat", one, other, axis=2), -1, build("Mul", each, build.sizes(layout.key_tile)))
        for one, other, each in ((near.keys, far.keys, width), (near.values, far.values, depth))
    ]
    apart = build(
        "Sub",
        build("Div", build("Shape", keys, start=2, end=3), build.sizes(layout.key_tile)),
        build.sizes(layout.sink // layout.key_tile),
    )
    total = build("Add", build("Mul", apart, build.sizes(2)), build.sizes(layout.sink // layout.key_tile))
    given = Sequence(
        query, key, value, near, far, (tables[0], tables[1]), total, apart,
        slopes_of(build, near, far, tile, layout), batch, length, width, depth, order_of,
    )  # fmt: skip

    def step(inner: Builder, tile: ir.Value) -> ir.Value:
        return Step(inner, given, prepared, kv_heads, tile, front, opset).output()

    found = build.scan([(build.reshape(tile, -1, per), ir.DataType.INT64)], step, rank=4)
    # Row n of a head stands in step (n + front) / segment: one Gather puts heads, steps and rows in their order.
    place = build("Add", place_of, build.number(front))
    step_of = build("Mul", build("Div", place, build.number(segment)), batch)
    first = build("Add", step_of, build.unsqueeze(build.range(batch), 1))
    first = build("Add", build("Mul", build.unsqueeze(first, 1), build.number(heads)), build.array(np.argsort(order)[:, None]))
    within = build.unsqueeze(build("Mod", place, build.number(segment)), 1)
    place = build("Add", build("Mul", first, build.number(segment)), within)
    result = build("Gather", build.reshape(found, -1, depth), place, label="output")
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return SparseBody(build.nodes, result, list(build.initializers.values()))


def _padding_last(build: Builder, key_mask: ir.Value, length: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(the order [B, N] of tokens in which those that do not count come last, the place [B, N] of each token in it)."""
    away = build("Where", key_mask, build.number(0), length)
    rank = build("Add", build.range(length), away)
    order = build("TopK", rank, length, largest=0, outputs=2)[1]
    return order, build("TopK", order, length, largest=0, outputs=2)[1]


def _moved(
    build: Builder, x: ir.Value, order: ir.Value, heads: int, batch: ir.Value, length: ir.Value, width: ir.Value
) -> ir.Value:
    """The rows of `x` [B, heads, N, width] in that order."""
    first = build.reshape(build.range(build("Mul", batch, build.sizes(heads))), -1, heads, 1)
    place = build("Add", build("Mul", first, length), build.unsqueeze(order, 1))
    return build("Gather", build.reshape(x, -1, width), place)
