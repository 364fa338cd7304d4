"""The causal attention kernel in Triton: a tile of queries against its own keys, its exact tiles and the means of all others, one softmax.

A program holds up to 64 queries of one tile. Where the budget of its head holds all of the past, it reads that as it stands, without means:
then it is dense attention.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .causal import Layout
from .reference import NEVER
from .triton_attend import Attended, joined, put, sloped
from .triton_causal_scores import CausalChoice, sizes_of
from .triton_causal_tiles import Tables, closed_before, row_of
from .triton_options import ANY_SIZE, LOG2E, block_of, configuration, padded, widened


@triton.jit
def read_rows(table, row, columns, lane, held):
    """Rows of a table, zero where not `held`."""
    return tl.load(table + row[:, None] * columns + lane[None, :], held[:, None] & (lane[None, :] < columns), 0.0)


@triton.jit(do_not_specialize=ANY_SIZE)
def attend_causal_kernel(
    query, keys, values, key_means, value_means, chosen, budgets, mass, first_order, output, logsum, far,
    heads, group, length, first, count, blocks, tiles, slots, neighbours, segments, most, width, depth, scale, q_batch, q_head, q_row,
    NEVER: tl.constexpr, LOG2E: tl.constexpr, WIDE: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr,
    SEGMENT: tl.constexpr, SINK: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, MEANS: tl.constexpr, WIDTH: tl.constexpr,
    DEPTH: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Own keys and exact tiles ROWS keys at a time, then MEANS slots at a time, then the pooled first-order term PART columns at a time.

    Late tiles of queries, which read most, begin first."""
    SUBS: tl.constexpr = QUERY_TILE // BLOCK
    at, sub, head = count - 1 - tl.program_id(0) // SUBS, tl.program_id(0) % SUBS, tl.program_id(1)
    i = first + at
    within = sub * BLOCK + tl.arange(0, BLOCK)
    place = i * QUERY_TILE + within
    d, e, column, inside = tl.arange(0, WIDTH), tl.arange(0, DEPTH), tl.arange(0, ROWS), place < length
    query += (head // heads).to(tl.int64) * q_batch + (head % heads).to(tl.int64) * q_head
    index = place.to(tl.int64)
    rows = tl.load(query + index[:, None] * q_row + d[None, :], inside[:, None] & (d[None, :] < width), 0.0)
    if WIDE:
        rows = rows.to(tl.float32)
    shared, row = (head // group).to(tl.int64), head.to(tl.int64) * count + at
    keys += shared * tiles * KEY_TILE * width
    values += shared * tiles * KEY_TILE * depth
    key_means += shared * tiles * width
    value_means += shared * tiles * depth
    top, summed = tl.full((BLOCK,), NEVER, tl.float32), tl.zeros((BLOCK,), tl.float32)
    found = tl.zeros((BLOCK, DEPTH), tl.float32)

    for start in range(0, (sub + 1) * BLOCK, ROWS):
        own = start + column
        key = read_rows(keys, i * QUERY_TILE + own, width, d, own < QUERY_TILE)
        value = read_rows(values, i * QUERY_TILE + own, depth, e, own < QUERY_TILE)
        logits = tl.dot(rows, tl.trans(key.to(rows.dtype)), input_precision="tf32x3") * (scale * LOG2E)
        logits = tl.where(own[None, :] <= within[:, None], logits, NEVER)
        found, summed, top, _ = joined(found, summed, top, logits, value, rows)

    usable = i * (QUERY_TILE // KEY_TILE)
    budget = tl.load(budgets + head % heads)
    exact = tl.minimum(budget, usable) * KEY_TILE
    listed, far_slots = tl.where(budget >= usable, 0, exact), tl.where(budget >= usable, 0, usable)
    for start in range(0, exact, ROWS):
        number = start + column
        tile = tl.load(chosen + row * most + number // KEY_TILE, number < listed, 0)
        tile = tl.where(listed == 0, number // KEY_TILE, tile)
        at_row = tile * KEY_TILE + number % KEY_TILE
        key = read_rows(keys, at_row, width, d, number < exact)
        value = read_rows(values, at_row, depth, e, number < exact)
        logits = tl.dot(rows, tl.trans(key.to(rows.dtype)), input_precision="tf32x3") * (scale * LOG2E)
        logits = tl.where((number < exact)[None, :], logits, NEVER)
        found, summed, top, _ = joined(found, summed, top, logits, value, rows)

    away, closed = tl.zeros((BLOCK,), tl.float32), closed_before(i * QUERY_TILE, segments, KEY_TILE, SEGMENT, SINK)
    for start in range(0, far_slots, MEANS):
        slot = start + tl.arange(0, MEANS)
        at_row = row_of(slot, closed, neighbours, KEY_TILE, SEGMENT, SINK)
        key = read_rows(key_means, at_row, width, d, slot < far_slots)
        value = read_rows(value_means, at_row, depth, e, slot < far_slots)
        own_mass = tl.load(mass + row * slots + slot, slot < far_slots, NEVER)
        logits = tl.dot(rows, tl.trans(key.to(rows.dtype)), input_precision="tf32x3") * (scale * LOG2E) + own_mass[None, :]
        found, away, top, shrink = joined(found, away, top, logits, value, rows)
        summed = summed * shrink

    whole = summed + away
    found, away = found / whole[:, None], away / whole
    if far_slots > 0:
        first_order += (shared * blocks + i) * width * depth
        found = sloped(found, away * scale, query, index, q_row, first_order, inside, width, depth, e, rows, PART)
    target = head.to(tl.int64) * length + place
    put(output, logsum, far, target, inside, found, top, whole, away, depth, e)


def attend_causal(
    query: torch.Tensor,
    tables: Tables,
    choice: CausalChoice,
    budgets: torch.Tensor,
    first_order: torch.Tensor,
    layout: Layout,
    scale: float,
    found: Attended,
) -> None:
    """Attention of the tiles of `query` [B, H, N, D] that `choice` is of, with the pooled `first_order` [B, Hkv, I, D, Dv], to `found`."""
    batch, heads, length, width = query.shape
    shared, tiles = tables.means.shape[1:3]
    depth, blocks, count = tables.values.shape[-1], first_order.shape[2], choice.chosen.shape[2]
    options = attend_causal_options(width, depth, layout.query_tile, query.dtype)
    subs = layout.query_tile // options["BLOCK"]
    attend_causal_kernel[count * subs, batch * heads](
        query, tables.keys, tables.values, tables.key_means, tables.value_means, choice.chosen, budgets, choice.mass, first_order,
        *found, heads, heads // shared, length, choice.first, count, blocks, tiles, choice.mass.shape[-1],
        blocks * (layout.query_tile // layout.key_tile), layout.segments(length), choice.chosen.shape[-1], width, depth, scale,
        *query.stride()[:3], NEVER=NEVER, LOG2E=LOG2E, WIDE=widened(query), **sizes_of(layout), **options,
    )  # fmt: skip


HALF = {
    16: (64, 64, 64, 4, 3),
    32: (64, 64, 32, 4, 3),
    64: (64, 64, 32, 4, 3),
    128: (64, 64, 64, 8, 2),
    256: (64, 32, 32, 8, 2),
}
FULL = {16: (64, 32, 32, 4, 2), 32: (64, 32, 32, 4, 2), 64: (32, 32, 32, 4, 2), 128: (16, 32, 32, 8, 2)}
"""Queries, keys and means at a time, warps and stages, by columns, for half precision and for float32: nothing spills on sm_80, sm_90 or
sm_100, and shared memory holds it."""


def attend_causal_options(width: int, depth: int, query_tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of `attend_causal_kernel` for rows of `width` and `depth`."""
    table = FULL if dtype.itemsize == 4 else HALF
    queries, rows, means, warps, stages = table[max(padded(width), padded(depth))]
    block, part = block_of(query_tile, queries), 64 if dtype.itemsize == 2 else 16
    return configuration(
        warps if block == queries else 4, stages, BLOCK=block, ROWS=rows, MEANS=means, WIDTH=padded(width), DEPTH=padded(depth),
        PART=min(part, padded(width)),
    )  # fmt: skip
