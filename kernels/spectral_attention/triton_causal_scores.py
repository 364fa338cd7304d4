"""Which tiles of the past each tile of queries attends to exactly, and what all others weigh, on a GPU in Triton: the causal form.

`scores` and masses are two products, c.k_j and c^2.s2_j, written by slot; `choose` finds the greatest scores. Both work on a range of
tiles of queries, so that a long text takes no more memory than the caller grants.
"""

from __future__ import annotations

from math import log2
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .causal import Layout
from .reference import NEVER
from .triton_causal_tiles import TINY, Tables, closed_before, row_of
from .triton_options import ANY_SIZE, configuration, padded
from .triton_scores import greatest, ordered


class CausalChoice(NamedTuple):
    """For tiles of queries `first`, `first` + 1, ... the rows of the tables `chosen` [B, H, I, most] (int32; as many as the budget,
    unwritten where that holds all slots), and the `mass` [B, H, I, slots] of each slot beyond its logit (log2; `NEVER` where exact,
    unwritten behind the last slot and where all are exact)."""

    first: int
    chosen: torch.Tensor
    mass: torch.Tensor


@triton.jit(do_not_specialize=ANY_SIZE)
def scores_kernel(
    mean_queries, means, spreads, budgets, scores, mass,
    heads, group, first, count, blocks, tiles, slots, neighbours, segments, parts, width, scale,
    LOG_TILE: tl.constexpr, TINY: tl.constexpr, PRECISION: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr,
    SEGMENT: tl.constexpr, SINK: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """ROWS rows of the tables, of neighbours in the first `parts` programs and by content in the others, for BLOCK tiles of queries."""
    head, part = tl.program_id(2), tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    i, last = first + at, first + tl.minimum(tl.program_id(1) * BLOCK + BLOCK, count) - 1
    slot = part * ROWS + tl.arange(0, ROWS)
    row = slot
    if part >= parts:
        row = neighbours + (part - parts) * ROWS + tl.arange(0, ROWS)
        slot = row - neighbours + SINK // KEY_TILE
    closed = closed_before(i * QUERY_TILE, segments, KEY_TILE, SEGMENT, SINK)
    seen = row_of(slot[None, :], closed[:, None], neighbours, KEY_TILE, SEGMENT, SINK) == row[None, :]
    seen = seen & (slot[None, :] < (i * (QUERY_TILE // KEY_TILE))[:, None]) & (at < count)[:, None]
    if tl.load(budgets + head % heads) >= last * (QUERY_TILE // KEY_TILE):
        return
    if tl.max(tl.max(seen.to(tl.int32), 1), 0) == 0:
        return
    mean_queries += head.to(tl.int64) * blocks * width
    means += (head // group).to(tl.int64) * tiles * width
    spreads += (head // group).to(tl.int64) * tiles * width
    mean, variance = tl.zeros((BLOCK, ROWS), tl.float32), tl.zeros((BLOCK, ROWS), tl.float32)
    for start in range(0, width, PART):
        d = start + tl.arange(0, PART)
        inside, there = (at < count)[:, None] & (d[None, :] < width), (row < tiles)[:, None] & (d[None, :] < width)
        centre = tl.load(mean_queries + i[:, None] * width + d[None, :], inside, 0.0) * scale
        key = tl.load(means + row[:, None] * width + d[None, :], there, 0.0)
        spread = tl.load(spreads + row[:, None] * width + d[None, :], there, 0.0)
        mean = tl.dot(centre, tl.trans(key), mean, input_precision=PRECISION)
        variance = tl.dot(centre * centre, tl.trans(spread), variance, input_precision=PRECISION)
    target = (head.to(tl.int64) * count + at)[:, None] * slots + slot[None, :]
    tl.store(scores + target, mean + tl.log(tl.maximum(variance, TINY)), seen)
    tl.store(mass + target, LOG_TILE + tl.log2(1 + variance / 2), seen)


@triton.jit(do_not_specialize=ANY_SIZE)
def choose_slots_kernel(
    scores, mass, budgets, chosen, heads, first, slots, neighbours, segments, most,
    NEVER: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr, SEGMENT: tl.constexpr, SINK: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of queries: the slots of its greatest scores, the first tile and the one just before it above all."""
    i, head, slot = first + tl.program_id(0), tl.program_id(1), tl.arange(0, COLUMNS)
    row, usable = head.to(tl.int64) * tl.num_programs(0) + tl.program_id(0), i * (QUERY_TILE // KEY_TILE)
    budget = tl.load(budgets + head % heads)
    if budget >= usable:
        return
    bits = ordered(tl.load(scores + row * slots + slot, slot < usable, 0.0))
    closed = closed_before(i * QUERY_TILE, segments, KEY_TILE, SEGMENT, SINK)
    table_row = row_of(slot, closed, neighbours, KEY_TILE, SEGMENT, SINK)
    bits = tl.where((table_row == 0) | (slot == usable - 1), 0xFFFFFFFF, bits)
    exact = greatest(tl.where(slot < usable, bits, 0), slot < usable, budget)
    place = tl.cumsum(exact.to(tl.int32), 0) - 1
    tl.store(chosen + row * most + place, table_row, exact)
    tl.store(mass + row * slots + slot, tl.full((COLUMNS,), NEVER, tl.float32), exact)


def choose_slots(
    centres: torch.Tensor,
    tables: Tables,
    budgets: torch.Tensor,
    most: int,
    layout: Layout,
    length: int,
    scale: float,
    first: int,
    count: int,
) -> CausalChoice:
    """The choice of `count` tiles of queries from `first` on, by their `centres` [B, H, I, D] (float32) and `budgets` [H] (int32). `most`
    is one or more and no less than any budget that does not hold all slots, zero where they all do and there is nothing to choose."""
    batch, heads, blocks, width = centres.shape
    shared, tiles = tables.means.shape[1:3]
    step, by_content = layout.query_tile // layout.key_tile, tables.order.shape[-1] // layout.key_tile
    slots = step * (first + count - 1) if most else 0
    neighbours, segments = step * blocks, layout.segments(length)
    chosen = torch.empty((batch, heads, count, most), dtype=torch.int32, device=centres.device)
    scores = torch.empty((batch, heads, count, slots), dtype=torch.float32, device=centres.device)
    mass = torch.empty_like(scores)
    if slots:
        sizes, options = sizes_of(layout), scores_options(tables.keys.dtype)
        parts = triton.cdiv(slots, options["ROWS"])
        grid = parts + triton.cdiv(by_content, options["ROWS"]), triton.cdiv(count, options["BLOCK"]), batch * heads
        scores_kernel[grid](
            centres, tables.means, tables.spreads, budgets, scores, mass, heads, heads // shared, first, count, blocks, tiles, slots,
            neighbours, segments, parts, width, scale, LOG_TILE=log2(layout.key_tile), TINY=TINY, **sizes, **options,
        )  # fmt: skip
        choose_slots_kernel[count, batch * heads](
            scores, mass, budgets, chosen, heads, first, slots, neighbours, segments, most,
            NEVER=NEVER, **sizes, **choose_slots_options(slots),
        )  # fmt: skip
    return CausalChoice(first, chosen, mass)


def sizes_of(layout: Layout) -> dict[str, int]:
    """The sizes of a layout as constants of a kernel."""
    return {"QUERY_TILE": layout.query_tile, "KEY_TILE": layout.key_tile, "SEGMENT": layout.segment, "SINK": layout.sink}


def scores_options(dtype: torch.dtype) -> dict[str, int | str]:
    """Tiles of queries, rows and columns at a time, and products in tf32, or three of those for float32: nothing spills on sm_80, sm_90 or
    sm_100."""
    part, precision = (32, "tf32") if dtype.itemsize == 2 else (16, "tf32x3")
    return {**configuration(4, 2, BLOCK=32, ROWS=64, PART=part), "PRECISION": precision}


def choose_slots_options(slots: int) -> dict[str, int]:
    """Constants of `choose_slots_kernel` for so many slots: they stay in registers up to 8192, those of a text of 131072 tokens, and
    spill with more."""
    columns = padded(slots)
    return configuration(min(16, max(1, columns // 256)), 1, COLUMNS=columns)
