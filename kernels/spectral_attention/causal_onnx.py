"""Causal spectral attention as standard ONNX operators (opset 15 or later), equal to `causal.py`, for every length in one file."""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...cost_model.errors import InputError
from .causal import Layout
from .causal_onnx_tables import ENDLESS, TINY, Tables, by_content, closed_at, slopes_of, tables_of
from .causal_prepare import CausalPrepared
from .onnx_body import SparseBody
from .onnx_builder import Builder


class _Step(NamedTuple):
    """What a step of the Scan reads: queries [B, H, segment, D] and their tiles [B, H, tiles, query tile, D], means [B, H, tiles, D], the
    first-order terms [B, Hkv, tiles, D, Dv], how many tiles of keys are read at most (`end`) and how many of those by content (`closed`),
    the first tile of keys of each query tile [tiles, 1], 0 or -inf for what it may read [tiles, end], and the three tables up to `end`."""

    queries: ir.Value
    tiles: ir.Value
    centres: ir.Value
    slopes: ir.Value
    end: ir.Value
    closed: ir.Value
    starts: ir.Value
    barred: ir.Value
    means: ir.Value
    value_means: ir.Value
    variances: ir.Value


def causal_nodes(
    query: ir.Value, key: ir.Value, value: ir.Value, prepared: CausalPrepared, kv_heads: int, name: str
) -> SparseBody:
    """The operator on float32 `query` [B, H, N, D], `key` [B, Hkv, N, D], `value` [B, Hkv, N, Dv]; names start with `name`.

    All sizes but H and Hkv come from Shape, and the exact tiles from TopK with k = Min(budget, tiles), so that short lengths come out exact
    and there is no If. A step of one Scan takes as many queries as a segment has, all of which see the same segments closed: its tables end
    where its past does, so that nothing is computed that the mask would hide, and stay in the cache. Heads of equal budgets share nodes.
    Raises InputError for budgets below zero, heads that do not fit each other, or a layout whose sink is no key tile.
    """
    heads, layout = len(prepared.budgets), prepared.layout
    if heads % kv_heads or min((budget for budget in prepared.budgets if budget is not None), default=0) < 0 or not layout.sink:
        raise InputError(
            f"Causal spectral attention cannot read {kv_heads} key heads with budgets {prepared.budgets} and {layout}."
        )
    build = Builder(name)
    size, segment = layout.query_tile, layout.segment
    per = segment // size
    length, width, depth = build("Shape", query, start=2, end=3), *(build("Shape", x, start=3, end=4) for x in (key, value))
    batch = build("Shape", query, start=0, end=1)
    # So many rows in front put the queries that see the same segments closed into one step.
    front = size * (-(layout.sink + segment + layout.key_tile) // size % per)
    steps = build.ceil_div(build("Add", length, build.sizes(front)), build.sizes(segment))
    rows = build("Mul", steps, build.sizes(segment))
    behind = build("Sub", rows, build("Add", length, build.sizes(front)))
    queries = build("Pad", build("Mul", query, build.float(prepared.scale)), build.join(0, 0, front, 0, 0, 0, behind, 0))
    queries = build.reshape(queries, 0, 0, -1, segment, width)

    keys, values = (
        build.end_padded(x, 4, 2, build("Sub", build("Add", rows, build.sizes(layout.sink)), length), build.float(0.0))
        for x in (key, value)
    )
    near = tables_of(build, keys, values, width, depth, layout)
    far = tables_of(build, *by_content(build, keys, values, width, depth, layout), width, depth, layout)
    tile = build("Sub", build.range(build("Mul", steps, build.sizes(per))), build.sizes(front // size))
    slopes = slopes_of(build, near, far, tile, layout)
    slopes = build.reshape(slopes, 0, 0, -1, per, width, depth)
    counts = build("Sub", length, build("Mul", tile, build.sizes(size)))
    counts = build("Cast", build("Clip", counts, build.number(1), build.number(size)), to=int(ir.DataType.FLOAT))
    tables = [
        build.reshape(build("Concat", one, other, axis=2), -1, build("Mul", each, build.sizes(layout.key_tile)))
        for one, other, each in ((near.keys, far.keys, width), (near.values, far.values, depth))
    ]
    total = build("Mul", build("Div", build("Shape", keys, start=2, end=3), build.sizes(layout.key_tile)), build.sizes(2))

    def step(inner: Builder, query: ir.Value, slope: ir.Value, count: ir.Value, tile: ir.Value) -> ir.Value:
        here = _step(inner, query, slope, count, tile, near, far, layout)
        parts = []
        for budget, members in prepared.groups.items():
            shared = [head // (heads // kv_heads) for head in members]
            if budget is None:
                parts.append(_dense(inner, here, keys, values, members, shared, layout))
            else:
                parts.append(
                    _sparse(inner, here, tables, total, batch, (width, depth), members, shared, kv_heads, budget, layout)
                )
        return inner("Concat", *parts, axis=1)

    over = [
        (build("Transpose", queries, perm=(2, 0, 1, 3, 4)), ir.DataType.FLOAT),
        (build("Transpose", slopes, perm=(2, 0, 1, 3, 4, 5)), ir.DataType.FLOAT),
        (build.reshape(counts, -1, per), ir.DataType.FLOAT),
        (build.reshape(tile, -1, per), ir.DataType.INT64),
    ]
    found = build("Transpose", build.scan(over, step, rank=4), perm=(1, 2, 0, 3, 4))
    order = [head for members in prepared.groups.values() for head in members]
    found = build("Gather", build.reshape(found, 0, 0, -1, depth), build.sizes(*np.argsort(order).tolist()), axis=1)
    end = build("Add", length, build.sizes(front))
    result = build("Slice", found, build.sizes(front), end, build.sizes(2), label="output")
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return SparseBody(build.nodes, result, list(build.initializers.values()))


def _step(
    build: Builder,
    query: ir.Value,
    slope: ir.Value,
    count: ir.Value,
    tile: ir.Value,
    near: Tables,
    far: Tables,
    layout: Layout,
) -> _Step:
    size, each = layout.query_tile, layout.key_tile
    starts = build("Mul", tile, build.sizes(size // each))
    last = build("Slice", starts, build.sizes(-1), build.sizes(ENDLESS))
    end = build("Max", last, build.sizes(1))
    closed = build("Div", closed_at(build, build("Mul", last, build.sizes(each)), layout), build.sizes(each))
    closed = build("Min", closed, end)
    tables = [
        build(
            "Concat",
            build("Slice", content, build.sizes(0), closed, build.sizes(2)),
            build("Slice", neighbours, closed, end, build.sizes(2)),
            axis=2,
        )
        for content, neighbours in (
            (far.means, near.means), (far.value_means, near.value_means), (far.variances, near.variances)
        )
    ]  # fmt: skip
    tiles = build.reshape(query, 0, 0, -1, size, build("Shape", query, start=3, end=4))
    centres = build("Div", build("ReduceSum", tiles, build.sizes(3), keepdims=0), build.unsqueeze(count, 1))
    starts = build.unsqueeze(starts, 1)
    barred = _where(build, build("Less", build.range(end), starts), 0.0, -np.inf)
    return _Step(query, tiles, centres, slope, end, closed, starts, barred, *tables)


def _where(build: Builder, condition: ir.Value, yes: float, no: float) -> ir.Value:
    return build("Where", condition, build.float(yes), build.float(no))


def _heads(build: Builder, x: ir.Value, heads: list[int] | tuple[int, ...]) -> ir.Value:
    return build("Gather", x, build.sizes(*heads), axis=1)


def _transposed(build: Builder, x: ir.Value, rank: int) -> ir.Value:
    return build("Transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _sparse(
    build: Builder, here: _Step, tables: list[ir.Value], total: ir.Value, batch: ir.Value, sizes: tuple[ir.Value, ir.Value],
    members: tuple[int, ...], shared: list[int], kv_heads: int, budget: int, layout: Layout,
) -> ir.Value:  # fmt: skip
    """The heads `members` of one budget in one step: [B, heads, segment, Dv]."""
    count, size, blocks = layout.key_tile, layout.query_tile, layout.segment // layout.query_tile
    means, value_means = _heads(build, here.means, shared), _heads(build, here.value_means, shared)
    centres, rows = _heads(build, here.centres, members), _heads(build, here.tiles, members)
    variances = _transposed(build, _heads(build, here.variances, shared), 4)
    spread = build("MatMul", build("Mul", centres, centres), variances)
    score = build("MatMul", centres, _transposed(build, means, 4))
    score = build("Add", score, build("Log", build("Max", spread, build.float(TINY))))
    place = build.range(here.end)
    last = build("Equal", place, build("Sub", here.starts, build.sizes(1)))
    forced = _where(build, build("Or", build("Equal", place, build.number(0)), last), np.inf, 0.0)
    usable = build("Less", place, here.starts)
    score = build("Where", usable, build("Add", score, forced), build.float(-np.inf))
    best, chosen = build("TopK", score, build("Min", build.sizes(budget), here.end), outputs=2)
    bias = build("Add", build("Log", build("Add", build("Mul", spread, build.float(0.5)), build.float(1.0))), here.barred)
    bias = build("Add", bias, build.float(log(count)))
    if budget:
        bias = build("ScatterElements", bias, chosen, build("Expand", build.float(-np.inf), build("Shape", chosen)), axis=3)

    content = build("Where", build("Less", chosen, here.closed), build("Div", total, build.sizes(2)), build.sizes(0))
    own = build("Max", build("Add", here.starts, build.array(np.arange(size // count))), build.sizes(0))
    own = build("Expand", own, build.join(batch, len(members), blocks, size // count))
    read = build("Concat", own, build("Add", chosen, content), axis=3)
    first = build("Add", build("Mul", build.unsqueeze(build.range(batch), 1), build.sizes(kv_heads)), build.sizes(*shared))
    read = build("Add", read, build.unsqueeze(build("Mul", first, total), 2, 3))
    keys, values = (
        build("Reshape", build("Gather", table, read), build.join(batch, len(members), blocks, -1, each))
        for table, each in zip(tables, sizes, strict=True)
    )
    held = _where(build, build("Greater", best, build.float(-np.inf)), 0.0, -np.inf)
    held = build("Expand", build.unsqueeze(held, 4), build.sizes(1, 1, 1, 1, count))
    held = build.reshape(held, batch, len(members), blocks, 1, -1)
    behind = np.triu(np.full((size, size), -np.inf, np.float32), 1)
    mask = build(
        "Concat",
        build("Expand", build.array(behind), build.join(batch, len(members), blocks, size, size)),
        build("Expand", held, build.sizes(1, 1, 1, size, 1)),
        axis=4,
    )
    near = build("Add", build("MatMul", rows, _transposed(build, keys, 5)), mask)
    far = build("MatMul", _heads(build, here.queries, members), _transposed(build, means, 4))
    far = build("Add", build.reshape(far, 0, 0, -1, size, here.end), build.unsqueeze(bias, 3))
    weights = build("Softmax", build("Concat", near, far, axis=4), axis=-1)
    near_columns = build("Shape", near, start=4, end=5)
    near, far = build("Split", weights, build("Concat", near_columns, here.end, axis=0), axis=4, outputs=2)
    found = build("MatMul", near, values)
    slopes = build("MatMul", rows, _heads(build, here.slopes, shared))
    found = build("Add", found, build("Mul", slopes, build("ReduceSum", far, build.sizes(4), keepdims=1)))
    found = build.reshape(found, 0, 0, layout.segment, sizes[1])
    return build("Add", found, build("MatMul", build.reshape(far, 0, 0, layout.segment, here.end), value_means))


def _dense(
    build: Builder, here: _Step, keys: ir.Value, values: ir.Value, members: tuple[int, ...], shared: list[int], layout: Layout
) -> ir.Value:
    """Heads that stay dense in one step: [B, heads, segment, Dv]."""
    begin = build("Mul", build("Slice", here.starts, build.sizes(0), build.sizes(1)), build.sizes(layout.key_tile))
    end = build.reshape(build("Add", begin, build.sizes(layout.segment)), 1)
    seen = [_heads(build, build("Slice", x, build.sizes(0), end, build.sizes(2)), shared) for x in (keys, values)]
    row = build("Add", begin, build.array(np.arange(layout.segment)[:, None]))
    # Rows in front of the first query see the first key, so that none is without any.
    row = build("Max", row, build.sizes(0))
    mask = _where(build, build("Greater", build.range(end), row), -np.inf, 0.0)
    logits = build("Add", build("MatMul", _heads(build, here.queries, members), _transposed(build, seen[0], 4)), mask)
    return build("MatMul", build("Softmax", logits, axis=-1), seen[1])
