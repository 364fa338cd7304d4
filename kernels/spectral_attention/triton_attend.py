"""The attention kernel in Triton: a tile of queries against its exact tiles of keys, then the means of all others, one softmax.

Each program holds up to 128 queries of one tile, which it gathers by the order and whose outputs it puts back where they were.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .reference import NEVER
from .triton_options import ANY_SIZE, LOG2E, block_of, configuration, padded, widened
from .triton_scores import Choice
from .triton_tiles import KeyTiles


class Attended(NamedTuple):
    """The output [B, H, N, Dv] in the dtype of the queries; for each of them the log (of 2) of the sum that its weights are divided by
    and the share of it that lies in means of tiles, both [B, H, N] float32, in the order of the queries as they came."""

    output: torch.Tensor
    logsum: torch.Tensor
    far: torch.Tensor


@triton.jit
def joined(found, summed, top, logits, value, like):
    """One more block of columns in a running softmax: (sum of values, weighted; sum of weights; greatest logit; what all that was there
    before is multiplied by). Products are in the dtype of `like`."""
    higher = tl.maximum(top, tl.max(logits, 1))
    weights, shrink = tl.exp2(logits - higher[:, None]), tl.exp2(top - higher)
    summed = summed * shrink + tl.sum(weights, 1)
    found = tl.dot(weights.to(like.dtype), value.to(like.dtype), found * shrink[:, None], input_precision="tf32x3")
    return found, summed, higher, shrink


@triton.jit
def sloped(found, share, query, index, q_row, slope, inside, width, depth, e, like, PART: tl.constexpr):
    """`found` and the first-order term: `share` times the rows of `query` at `index` times `slope`, PART columns of them at a time."""
    for start in range(0, width, PART):
        c = start + tl.arange(0, PART)
        part = tl.load(query + index[:, None] * q_row + c[None, :], inside[:, None] & (c[None, :] < width), 0.0)
        own = tl.load(slope + c[:, None] * depth + e[None, :], (c[:, None] < width) & (e[None, :] < depth), 0.0)
        moved = (part.to(tl.float32) * share[:, None]).to(like.dtype)
        found = tl.dot(moved, own.to(like.dtype), found, input_precision="tf32x3")
    return found


@triton.jit
def put(output, logsum, far, target, inside, found, top, whole, away, depth, e):
    """Rows of `Attended` at `target`: the outputs `found`, the log of a sum of weights (`whole`, times 2 to the `top`), and the share of it
    that is `away`."""
    there = inside[:, None] & (e[None, :] < depth)
    tl.store(output + target[:, None] * depth + e[None, :], found.to(output.dtype.element_ty), there)
    tl.store(logsum + target, top + tl.log2(whole), inside)
    tl.store(far + target, away, inside)


@triton.jit(do_not_specialize=ANY_SIZE)
def attend_kernel(
    query, order, keys, values, key_means, value_means, totals, chosen, budgets, mass, first_order, output, logsum, far,
    heads, group, length, tiles, most, width, depth, scale, q_batch, q_head, q_row,
    NEVER: tl.constexpr, LOG2E: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr, QUERY_TILE: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, MEANS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Exact tiles ROWS keys at a time, then MEANS tiles at a time, then the pooled first-order term PART columns of q at a time.

    WHOLE says that every tile of keys is full and ROWS long, so that no key need be masked."""
    SUBS: tl.constexpr = (QUERY_TILE + BLOCK - 1) // BLOCK
    STEPS: tl.constexpr = (TILE + ROWS - 1) // ROWS
    i, head = tl.program_id(0) // SUBS, tl.program_id(1)
    within = (tl.program_id(0) % SUBS) * BLOCK + tl.arange(0, BLOCK)
    d, e = tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    inside = (within < QUERY_TILE) & (i * QUERY_TILE + within < length)
    index = tl.load(order + head.to(tl.int64) * length + i * QUERY_TILE + within, inside, 0).to(tl.int64)
    query += (head // heads).to(tl.int64) * q_batch + (head % heads).to(tl.int64) * q_head
    rows = tl.load(query + index[:, None] * q_row + d[None, :], inside[:, None] & (d[None, :] < width), 0.0)
    if WIDE:
        rows = rows.to(tl.float32)
    shared, row = (head // group).to(tl.int64), head.to(tl.int64) * (tl.num_programs(0) // SUBS) + i
    keys += shared * tiles * TILE * width
    values += shared * tiles * TILE * depth
    total = tl.load(totals + head // heads)
    top, summed = tl.full((BLOCK,), NEVER, tl.float32), tl.zeros((BLOCK,), tl.float32)
    found = tl.zeros((BLOCK, DEPTH), tl.float32)

    column = tl.arange(0, ROWS)
    for step in range(tl.minimum(tl.load(budgets + head % heads), tiles) * STEPS):
        start = (step % STEPS) * ROWS
        place = tl.load(chosen + row * most + step // STEPS) * TILE + start + column
        if WHOLE:
            key = tl.load(keys + place.to(tl.int64)[None, :] * width + d[:, None], d[:, None] < width, 0.0)
            value = tl.load(values + place.to(tl.int64)[:, None] * depth + e[None, :], e[None, :] < depth, 0.0)
            logits = tl.dot(rows, key.to(rows.dtype), input_precision="tf32x3") * (scale * LOG2E)
        else:
            held = (start + column < TILE) & (place < total)
            key = tl.load(keys + place.to(tl.int64)[None, :] * width + d[:, None], held[None, :] & (d[:, None] < width), 0.0)
            value = tl.load(
                values + place.to(tl.int64)[:, None] * depth + e[None, :], held[:, None] & (e[None, :] < depth), 0.0
            )
            logits = tl.dot(rows, key.to(rows.dtype), input_precision="tf32x3") * (scale * LOG2E)
            logits = tl.where(held[None, :], logits, NEVER)
        found, summed, top, _ = joined(found, summed, top, logits, value, rows)

    key_means += shared * tiles * width
    value_means += shared * tiles * depth
    away = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, tiles, MEANS):
        j = start + tl.arange(0, MEANS)
        there = j < tiles
        key = tl.load(key_means + j[None, :] * width + d[:, None], there[None, :] & (d[:, None] < width), 0.0)
        value = tl.load(value_means + j[:, None] * depth + e[None, :], there[:, None] & (e[None, :] < depth), 0.0)
        own = tl.load(mass + row * tiles + j, there, NEVER)
        logits = tl.dot(rows, key.to(rows.dtype), input_precision="tf32x3") * (scale * LOG2E) + own[None, :]
        higher = tl.maximum(top, tl.max(logits, 1))
        weights, shrink = tl.exp2(logits - higher[:, None]), tl.exp2(top - higher)
        # Where nothing was seen yet but what weighs nothing, exp2 of no difference would count it.
        weights = tl.where(logits > NEVER / 2, weights, 0.0)
        away = away * shrink + tl.sum(weights, 1)
        summed = summed * shrink
        value = value.to(rows.dtype)
        found = tl.dot(weights.to(value.dtype), value, found * shrink[:, None], input_precision="tf32x3")
        top = higher

    whole = summed + away
    whole = tl.where(whole > 0, whole, 1.0)
    found, away = found / whole[:, None], away / whole
    first_order += row * width * depth
    found = sloped(found, away * scale, query, index, q_row, first_order, inside, width, depth, e, rows, PART)
    target = head.to(tl.int64) * length + index
    put(output, logsum, far, target, inside, found, top, whole, away, depth, e)


def attend(
    query: torch.Tensor,
    order: torch.Tensor,
    tiles: KeyTiles,
    choice: Choice,
    first_order: torch.Tensor,
    *,
    scale: float,
    query_tile: int,
    tile: int,
    whole: bool,
) -> Attended:
    """Attention of `query` [B, H, N, D] in an `order` [B, H, N], cut into tiles of `query_tile`, to `tiles` of `tile` keys by a `choice`
    and the pooled `first_order` [B, H, I, D, Dv]. `whole` says that no tile of keys is short, which spares a mask."""
    batch, heads, length, width = query.shape
    count, depth, blocks = tiles.key_means.shape[2], tiles.values.shape[-1], choice.mass.shape[2]
    query = query if query.stride(-1) == 1 else query.contiguous()
    output = torch.empty((batch, heads, length, depth), dtype=query.dtype, device=query.device)
    logsum = torch.empty((batch, heads, length), dtype=torch.float32, device=query.device)
    far = torch.empty_like(logsum)
    options = attend_options(width, depth, query_tile, tile, query.dtype)
    subs = triton.cdiv(query_tile, options["BLOCK"])
    attend_kernel[blocks * subs, batch * heads](
        query, order, tiles.keys, tiles.values, tiles.key_means, tiles.value_means, tiles.totals, choice.chosen, choice.budgets,
        choice.mass, first_order, output, logsum, far, heads, heads // tiles.keys.shape[1], length, count,
        choice.chosen.shape[-1], width, depth, scale, *query.stride()[:3], NEVER=NEVER, LOG2E=LOG2E,
        WHOLE=whole and tile % options["ROWS"] == 0, WIDE=widened(query), **options,
    )  # fmt: skip
    return Attended(output, logsum, far)


HALF = {
    16: (64, 64, 64, 4, 3),
    32: (64, 64, 32, 4, 3),
    64: (64, 64, 32, 4, 3),
    128: (64, 64, 64, 8, 2),
    256: (64, 32, 32, 8, 2),
}
LARGE = {64: (128, 64, 32, 8, 3), 128: (128, 64, 32, 8, 2)}
FULL = {16: (64, 32, 32, 4, 2), 32: (64, 32, 32, 4, 2), 64: (32, 32, 32, 4, 2), 128: (16, 32, 32, 8, 2)}
"""Queries, keys and means at a time, warps and stages, by columns: for half precision, for that with tiles of 128 queries or more, and
for float32, whose products in three parts take more registers. Nothing spills on sm_80, sm_90 or sm_100, and shared memory holds it; the
next greater sizes tried do spill."""


def attend_options(width: int, depth: int, query_tile: int, tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of `attend_kernel` for rows of `width` and `depth`."""
    table = FULL if dtype.itemsize == 4 else HALF | LARGE if query_tile >= 128 else HALF
    queries, rows, means, warps, stages = table[max(padded(width), padded(depth))]
    block, part = block_of(query_tile, queries), 64 if dtype.itemsize == 2 else 16
    return configuration(
        warps if block == queries else 4, stages, QUERY_TILE=query_tile, TILE=tile, BLOCK=block, ROWS=block_of(tile, rows),
        MEANS=means, WIDTH=padded(width), DEPTH=padded(depth), PART=min(part, padded(width)),
    )  # fmt: skip
