"""Spectral sparse attention as standard ONNX operators (opset 15 or later), equal to `reference.py`, for every length in one file."""

from __future__ import annotations

from math import log2
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...cost_model.errors import InputError
from .onnx_builder import Builder
from .onnx_tiles import LEAST, Order, back, centred, cut, means, ordered, products, variance
from .prepare import SparsePrepared
from .reference import FLOOR

OPSET = 15
"""The first operator set whose Shape takes a part of the axes."""
TINY = float(np.finfo(np.float32).tiny)
STEP_BYTES = 6e6
"""Keys, values, logits and weights of one step of the Scan, which each of its operators then finds in the cache. On two cores with 1 MiB of
L2 each steps of 16 tiles took half the time of one product over all tiles (27 against 47 ms at 4,096 keys, 12 heads of 64, 7 exact tiles).
With 2 MiB each, steps of 8, 8 and 4 tiles were the fastest at 4,096, 8,192 and 16,384 keys with 6, 9 and 13 exact tiles: at the first by
4 %, at the others by less than rounds differ."""


class SparseBody(NamedTuple):
    """Nodes in order, the value that holds the result [B, H, N, Dv], and the initialisers to register with the graph."""

    nodes: list[ir.Node]
    output: ir.Value
    initializers: list[ir.Value]


class _Columns(NamedTuple):
    """What query tiles [B, H, query tiles] attend to. `keys` and `values` [rows, tile * width] are tables of tiles, first the tiles of a KV
    head and then its means, cut into tiles too. `chosen` [.., budget] and `centroids` [.., far tiles] are rows of it; `held`
    [.., budget, tile] and `far` [.., far tiles * tile] are added to the logits. `queries` [.., tile * D] and `slopes` [.., D * Dv], the
    first-order terms, are those of the tile."""

    keys: ir.Value
    values: ir.Value
    queries: ir.Value
    chosen: ir.Value
    centroids: ir.Value
    held: ir.Value
    far: ir.Value
    slopes: ir.Value


def attention_nodes(
    query: ir.Value, key: ir.Value, value: ir.Value, prepared: SparsePrepared, name: str, key_mask: ir.Value | None = None
) -> SparseBody:
    """The operator on float32 `query` [B, H, N, D], `key` [B, Hkv, S, D], `value` [B, Hkv, S, Dv] and, where there is one, bool `key_mask`
    [B, S], True where a key counts; names start with `name`.

    All sizes but H, Hkv and D come from Shape, and the exact tiles from TopK with k = Min(budget, tiles), so that short lengths come out
    exact and there is no If. Whole tiles are gathered, so that onnxruntime copies 16 KB at a time, and the query tiles go through a Scan
    a few at a time, so that keys, logits and values stay in the cache. Heads of equal budgets share a Scan.
    Raises InputError for a budget below zero, or for budgets or heads that do not fit each other.
    """
    heads, shared = prepared.query_codebook.shape[0], prepared.key_codebook.shape[0]
    budgets = list(prepared.budgets)
    if heads % shared or len(budgets) != heads or min(budgets) < 0:
        raise InputError(
            f"Spectral attention of {heads} heads needs key heads that divide them and budgets of none or more tiles, "
            f"not {shared} key heads and budgets {budgets}."
        )
    build = Builder(name)
    tile = prepared.tile
    depth, batch = build("Shape", value, start=3, end=4), build("Shape", query, start=0, end=1)
    queries = ordered(build, query, prepared.query_codebook, tile, most=_most(prepared))
    query_tiles = cut(build, query, build.sizes(prepared.query_codebook.shape[2]), queries, tile)
    columns = _columns(build, query_tiles, queries, key, value, depth, prepared, budgets, key_mask)
    parts, first, starts = [], build.sizes(0), {}
    for budget in sorted(set(budgets)):
        members = [head for head in range(heads) if budgets[head] == budget]
        parts.append(_attended(build, columns, queries.step, members, budget, prepared, depth))
        starts[budget] = first
        first = build("Add", first, build("Mul", build("Mul", batch, build.sizes(len(members) * tile)), queries.tiles))
    output = parts[0] if len(parts) == 1 else build("Concat", *parts, axis=0)
    result = back(build, output, depth, _starts(build, budgets, starts, batch, queries.tiles, tile), queries)
    if key_mask is not None:
        some = build("ReduceSum", build("Cast", key_mask, to=int(ir.DataType.FLOAT)), build.sizes(1))
        result = build("Mul", result, build.unsqueeze(build("Min", some, build.float(1.0)), 2, 3), label="kept")
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return SparseBody(build.nodes, result, list(build.initializers.values()))


def _most(prepared: SparsePrepared) -> int:
    """Query tiles of one step: a power of two, so that usual lengths fill their steps. Far columns are taken for a third of the exact."""
    columns = (prepared.key_tile or prepared.tile) * (4 * max(prepared.budgets) / 3 + 1)
    each = 4 * columns * 2 * (prepared.tile + prepared.query_codebook.shape[2])
    return 2 ** max(0, round(log2(STEP_BYTES / each)))


def _columns(
    build: Builder, query_tiles: ir.Value, queries: Order, key: ir.Value, value: ir.Value, depth: ir.Value,
    prepared: SparsePrepared, budgets: list[int], key_mask: ir.Value | None,
) -> _Columns:  # fmt: skip
    """Scores, chosen tiles and second-order masses, [G, query tiles of all heads that share G, key tiles] with G = B * Hkv, and tables."""
    tile, shared, width = (
        prepared.key_tile or prepared.tile,
        prepared.key_codebook.shape[0],
        build.sizes(prepared.key_codebook.shape[2]),
    )
    keys = ordered(build, key, prepared.key_codebook, tile, key_mask)
    tiles = keys.tiles
    key_tiles, value_tiles = cut(build, key, width, keys, tile), cut(build, value, depth, keys, tile)
    mean_keys, mean_values = means(build, key_tiles, keys), means(build, value_tiles, keys)
    deviations = centred(build, key_tiles, mean_keys, keys)

    groups = build("Mul", build("Shape", key, start=0, end=1), build.sizes(shared))
    centres = build("Mul", means(build, query_tiles, queries), build.float(prepared.scale))
    centres = build.reshape(centres, groups, -1, width)
    mean = build("MatMul", centres, build("Transpose", build.reshape(mean_keys, 0, tiles, width), perm=(0, 2, 1)))
    spread = variance(build, centres, deviations, key_tiles, keys, prepared.key_codebook.shape[1:])
    floor = build("Mul", build("Add", spread, build("Mul", mean, mean)), build.float(FLOOR))
    spread = build("Max", spread, build("Add", floor, build.float(TINY)))
    log_count = build.unsqueeze(build("Max", build("Log", keys.counts), build.float(LEAST)), 1)
    scores = build("Add", build("Add", mean, log_count), build("Log", spread))
    chosen = build("TopK", scores, build("Min", build.sizes(max(budgets)), tiles), outputs=2)[1]
    mass = build("Log", build("Add", build("Mul", spread, build.float(0.5)), build.float(1.0)))
    far = _without_chosen(build, build("Add", log_count, mass), chosen, tiles, budgets, queries)
    share = build("Softmax", build("Add", mean, far), axis=-1)
    slopes = build("MatMul", share, products(build, deviations, value_tiles, keys))

    far_tiles = build.ceil_div(tiles, build.sizes(tile))
    rest = build("Sub", build("Mul", far_tiles, build.sizes(tile)), tiles)
    group = build.unsqueeze(build.range(groups), 1, 2)
    start = build("Mul", group, build("Add", tiles, far_tiles))
    blocks = build("Shape", chosen, start=0, end=2)
    centroids = build("Add", build("Add", build.range(far_tiles), tiles), start)
    held = build("Where", keys.held, build.float(0.0), build.float(LEAST))
    index = chosen if key_mask is None else build("Add", chosen, build("Mul", group, tiles))
    tables = [
        build.reshape(
            build(
                "Concat",
                build.reshape(rows, 0, -1, size),
                build.end_padded(build.reshape(mean_rows, 0, tiles, size), 3, 1, rest, build.float(0.0)),
                axis=1,
            ),
            -1,
            build("Mul", size, build.sizes(tile)),
        )
        for rows, mean_rows, size in ((key_tiles, mean_keys, width), (value_tiles, mean_values, depth))
    ]
    of_heads = (build("Shape", key, start=0, end=1), len(budgets), queries.tiles)
    return _Columns(
        keys=tables[0],
        values=tables[1],
        queries=build.reshape(query_tiles, *of_heads, -1),
        chosen=build.reshape(build("Add", chosen, start), *of_heads, -1),
        centroids=build.reshape(build("Expand", centroids, build.join(blocks, 1)), *of_heads, -1),
        held=build.reshape(build("Gather", build.reshape(held, -1, tile), index), *of_heads, -1, tile),
        far=build.reshape(build.end_padded(far, 3, 2, rest, build.float(LEAST)), *of_heads, -1),
        slopes=build.reshape(slopes, *of_heads, -1),
    )


def _without_chosen(
    build: Builder, bias: ir.Value, chosen: ir.Value, tiles: ir.Value, budgets: list[int], queries: Order
) -> ir.Value:
    """`bias` with `LEAST` at the tiles that are chosen within the budget of their head; what is beyond it goes to a column that is
    dropped."""
    least = build("Expand", build.float(LEAST), build("Shape", chosen))
    if len(set(budgets)) == 1:
        return build("ScatterElements", bias, chosen, least, axis=2)
    batch = build("Div", build("Shape", queries.order, start=0, end=1), build.sizes(len(budgets)))
    limits = build.array(np.array(budgets, np.int64)[:, None])
    limits = build("Expand", limits, build.join(batch, len(budgets), queries.tiles))
    limits = build.reshape(limits, build("Shape", chosen, start=0, end=2), 1)
    within = build("Less", build.range(build("Shape", chosen, start=2, end=3)), limits)
    wider = build.end_padded(bias, 3, 2, build.sizes(1), build.float(0.0))
    wider = build("ScatterElements", wider, build("Where", within, chosen, tiles), least, axis=2)
    return build("Slice", wider, build.sizes(0), tiles, build.sizes(2))


def _starts(
    build: Builder, budgets: list[int], starts: dict[int, ir.Value], batch: ir.Value, tiles: ir.Value, tile: int
) -> ir.Value:
    """[B, H]: the row at which the tiles of a head begin in the outputs of the Scans; the one for a budget begins at its `starts`."""
    kinds = sorted(starts)
    which = np.array([kinds.index(budget) for budget in budgets], np.int64)
    rank = np.array([budgets[:head].count(budget) for head, budget in enumerate(budgets)], np.int64)
    sizes = np.array([budgets.count(budget) for budget in budgets], np.int64)
    base = build("Gather", build.join(*(starts[budget] for budget in kinds)), build.array(which))
    before = build("Add", build("Mul", build.unsqueeze(build.range(batch), 1), build.array(sizes)), build.array(rank))
    return build("Add", build("Mul", build("Mul", before, tiles), build.sizes(tile)), base)


def _attended(
    build: Builder,
    columns: _Columns,
    step: ir.Value,
    members: list[int],
    budget: int,
    prepared: SparsePrepared,
    depth: ir.Value,
) -> ir.Value:
    """The outputs [steps, step, tile, Dv] of the query tiles of those heads, `step` at a time."""
    tile, width, heads = prepared.tile, prepared.query_codebook.shape[2], prepared.query_codebook.shape[0]

    def mine(x: ir.Value) -> ir.Value:
        return x if len(members) == heads else build("Gather", x, build.sizes(*members), axis=1)

    def within(x: ir.Value) -> ir.Value:
        return (
            mine(x) if len(members) == heads else build("Slice", mine(x), build.sizes(0), build.sizes(budget), build.sizes(3))
        )

    chosen, held, far = within(columns.chosen), within(columns.held), mine(columns.far)
    blocks = build("Concat", chosen, mine(columns.centroids), axis=3)
    bias = build("Concat", build("Reshape", held, build.join(0, 0, 0, -1)), far, axis=3)
    exact = build("Mul", build("Shape", chosen, start=3, end=4), build.sizes(prepared.key_tile or tile))
    is_far = build("GreaterOrEqual", build.range(build("Shape", bias, start=3, end=4)), exact)
    is_far = build.unsqueeze(build("Cast", is_far, to=int(ir.DataType.FLOAT)), 1)
    value_shape = build.join(0, -1, depth)

    def attend(inner: Builder, queries: ir.Value, index: ir.Value, bias: ir.Value, slopes: ir.Value) -> ir.Value:
        scaled = inner("Mul", queries, inner.float(prepared.scale))
        keys = inner("Transpose", inner.reshape(inner("Gather", columns.keys, index), 0, -1, width), perm=(0, 2, 1))
        weights = inner("Softmax", inner("Add", inner("MatMul", scaled, keys), bias), axis=-1)
        first_order = inner("Mul", inner("MatMul", weights, is_far), inner("MatMul", scaled, slopes))
        values = inner("Reshape", inner("Gather", columns.values, index), value_shape)
        return inner("Add", inner("MatMul", weights, values), first_order)

    over = [
        (build.reshape(mine(columns.queries), -1, step, tile, width), ir.DataType.FLOAT),
        (build.reshape(blocks, -1, step, build("Shape", blocks, start=3, end=4)), ir.DataType.INT64),
        (build.reshape(bias, -1, step, 1, build("Shape", bias, start=3, end=4)), ir.DataType.FLOAT),
        (build.reshape(mine(columns.slopes), -1, step, width, depth), ir.DataType.FLOAT),
    ]
    return build.scan(over, attend, rank=3)
