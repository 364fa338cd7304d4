"""Keys and values of causal spectral attention cut into tiles on a GPU, in Triton: segments halved by content, then tables of tiles.

A table has a row for each tile: first those of neighbours, then those of each segment by content. A tile of queries sees the past as
slots, one for each tile of neighbours before it; where the segment of a slot is closed to it, the slot's row is one by content.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .causal import POWER_STEPS, Layout
from .triton_options import ANY_SIZE, configuration, padded, widened

TINY = torch.finfo(torch.float32).tiny
OTHERS = 32
"""Rows that a row is compared with at a time when its rank is counted."""


class Tables(NamedTuple):
    """By tile of keys: `keys` and `values` [B, Hkv, T * key tile, D | Dv], zero behind the end of the text, and their means
    [B, Hkv, T, D | Dv], in the dtype of the keys; float32 means and variances of the keys [B, Hkv, T, D]. By pieces of a query tile's rows
    `slopes` [B, Hkv, pieces, D, Dv], mean of (k - k_j)^T v, in the dtype of the keys. `order` [B, Hkv, rows by content] is where the keys
    by content stood."""

    order: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    key_means: torch.Tensor
    value_means: torch.Tensor
    means: torch.Tensor
    spreads: torch.Tensor
    slopes: torch.Tensor


@triton.jit
def closed_before(start, segments, KEY_TILE: tl.constexpr, SEGMENT: tl.constexpr, SINK: tl.constexpr):
    """Segments of so many that are closed to a tile of queries from `start` on."""
    return tl.minimum(tl.maximum(start - SINK - KEY_TILE, 0) // SEGMENT, segments)


@triton.jit
def row_of(slot, closed, neighbours, KEY_TILE: tl.constexpr, SEGMENT: tl.constexpr, SINK: tl.constexpr):
    """The row of the tables that stands in a slot where `closed` segments are read by content; `neighbours` rows come before those."""
    by_content = (slot >= SINK // KEY_TILE) & (slot < (SINK + SEGMENT * closed) // KEY_TILE)
    return slot + tl.where(by_content, neighbours - SINK // KEY_TILE, 0)


@triton.jit(do_not_specialize=ANY_SIZE)
def halve_kernel(
    key, order, along, halved, heads, segments, width, k_batch, k_head, k_row,
    TINY: tl.constexpr, STEPS: tl.constexpr, SEGMENT: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr, OTHERS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Sorts SIZE keys of a segment along their leading principal direction, so that the next call halves them. `along` is scratch."""
    head, d = tl.program_id(1), tl.arange(0, WIDTH)
    key += (head // heads).to(tl.int64) * k_batch + (head % heads).to(tl.int64) * k_head
    base = head.to(tl.int64) * segments * SEGMENT + tl.program_id(0) * SIZE
    order, along, halved = order + base, along + base, halved + base
    row = tl.arange(0, CHUNK)
    mean, spread = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for start in range(0, SIZE, CHUNK):
        place = tl.load(order + start + row).to(tl.int64)
        rows = tl.load(key + place[:, None] * k_row + d[None, :], d[None, :] < width, 0.0)
        mean += tl.sum(rows.to(tl.float32), 0) / SIZE
    for start in range(0, SIZE, CHUNK):
        place = tl.load(order + start + row).to(tl.int64)
        rows = tl.load(key + place[:, None] * k_row + d[None, :], d[None, :] < width, 0.0)
        centred = rows.to(tl.float32) - mean[None, :]
        spread += tl.sum(centred * centred, 0)
    _, widest = tl.max(spread, 0, return_indices=True)
    direction = tl.where(d == widest, 1.0, 0.0)
    for _ in range(STEPS + 1):
        direction = direction / tl.maximum(tl.sqrt(tl.sum(direction * direction, 0)), TINY)
        found = tl.zeros((WIDTH,), tl.float32)
        for start in range(0, SIZE, CHUNK):
            place = tl.load(order + start + row).to(tl.int64)
            rows = tl.load(key + place[:, None] * k_row + d[None, :], d[None, :] < width, 0.0)
            centred = rows.to(tl.float32) - mean[None, :]
            found += tl.sum(centred * tl.sum(centred * direction[None, :], 1)[:, None], 0)
        direction = found
    for start in range(0, SIZE, CHUNK):
        place = tl.load(order + start + row).to(tl.int64)
        rows = tl.load(key + place[:, None] * k_row + d[None, :], d[None, :] < width, 0.0)
        tl.store(along + start + row, tl.sum((rows.to(tl.float32) - mean[None, :]) * direction[None, :], 1))
    tl.debug_barrier()
    for start in range(0, SIZE, CHUNK):
        own, rank = tl.load(along + start + row), tl.zeros((CHUNK,), tl.int32)
        for first in range(0, SIZE, OTHERS):
            number = first + tl.arange(0, OTHERS)
            other = tl.load(along + number)
            earlier = (other[None, :] == own[:, None]) & (number[None, :] < (start + row)[:, None])
            rank += tl.sum(((other[None, :] < own[:, None]) | earlier).to(tl.int32), 1)
        tl.store(halved + rank, tl.load(order + start + row))


@triton.jit(do_not_specialize=ANY_SIZE)
def tables_kernel(
    key, value, order, keys, values, key_means, value_means, means, spreads, slopes, heads, length, blocks, pieces, width, depth,
    k_batch, k_head, k_row, v_batch, v_head, v_row,
    WIDE: tl.constexpr, PIECE: tl.constexpr, KEY_TILE: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A piece of PIECE rows of one head, WIDTH columns of its keys against DEPTH columns of its values at a time."""
    TILES: tl.constexpr = PIECE // KEY_TILE
    piece, part, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d, place = part * WIDTH + tl.arange(0, WIDTH), piece * PIECE + tl.arange(0, PIECE)
    key += (head // heads).to(tl.int64) * k_batch + (head % heads).to(tl.int64) * k_head
    value += (head // heads).to(tl.int64) * v_batch + (head % heads).to(tl.int64) * v_head
    order += head.to(tl.int64) * (pieces - blocks) * PIECE
    moved = tl.load(order + place - blocks * PIECE, place >= blocks * PIECE, 0)
    index = tl.where(place >= blocks * PIECE, moved, place).to(tl.int64)
    inside = index < length
    of_piece = head.to(tl.int64) * pieces + piece
    target = of_piece * PIECE + tl.arange(0, PIECE)
    tile = of_piece * TILES + tl.arange(0, TILES)
    rows = tl.load(key + index[:, None] * k_row + d[None, :], inside[:, None] & (d[None, :] < width), 0.0)
    tl.store(keys + target[:, None] * width + d[None, :], rows, d[None, :] < width)
    cut = tl.reshape(rows.to(tl.float32), (TILES, KEY_TILE, WIDTH))
    mean = tl.sum(cut, 1) / KEY_TILE
    cut = cut - mean[:, None, :]
    spot, held = tile[:, None] * width + d[None, :], d[None, :] < width
    tl.store(key_means + spot, mean, held)
    tl.store(means + spot, mean, held)
    tl.store(spreads + spot, tl.sum(cut * cut, 1) / KEY_TILE, held)
    centred = tl.reshape(cut, (PIECE, WIDTH))
    own_depth = tl.where(part == 0, depth, 0)
    for first in range(0, depth, DEPTH):
        e = first + tl.arange(0, DEPTH)
        seen = tl.load(value + index[:, None] * v_row + e[None, :], inside[:, None] & (e[None, :] < depth), 0.0)
        tl.store(values + target[:, None] * depth + e[None, :], seen, e[None, :] < own_depth)
        if WIDE:
            seen = seen.to(tl.float32)
        together = tl.dot(tl.trans(centred.to(seen.dtype)), seen, input_precision="tf32x3") / PIECE
        corner = (of_piece * width + d)[:, None] * depth + e[None, :]
        tl.store(slopes + corner, together, (d[:, None] < width) & (e[None, :] < depth))
        of_values = tl.sum(tl.reshape(seen.to(tl.float32), (TILES, KEY_TILE, DEPTH)), 1) / KEY_TILE
        tl.store(value_means + tile[:, None] * depth + e[None, :], of_values, e[None, :] < own_depth)


def by_content(key: torch.Tensor, layout: Layout) -> torch.Tensor:
    """int32 [B, Hkv, segments * segment]: the positions of the keys [B, Hkv, N, D] of each segment, neighbours by content. As
    `causal.key_tiles` has them, to the rounding of a direction."""
    batch, heads, length, width = key.shape
    segments = layout.segments(length)
    order = layout.sink + torch.arange(segments * layout.segment, dtype=torch.int32, device=key.device)
    order = order.expand(batch, heads, -1).contiguous()
    if not segments:
        return order
    key = key if key.stride(-1) == 1 else key.contiguous()
    along, size = torch.empty_like(order, dtype=torch.float32), layout.segment
    while size > layout.key_tile:
        halved = torch.empty_like(order)
        halve_kernel[order.shape[-1] // size, batch * heads](
            key, order, along, halved, heads, segments, width, *key.stride()[:3],
            TINY=TINY, STEPS=POWER_STEPS, SEGMENT=layout.segment, OTHERS=min(OTHERS, size), **halve_options(width, size),
        )  # fmt: skip
        order, size = halved, size // 2
    return order


def tables_of(key: torch.Tensor, value: torch.Tensor, layout: Layout) -> Tables:
    """The tables of `key` [B, Hkv, N, D] and `value` [B, Hkv, N, Dv]."""
    batch, heads, length, width = key.shape
    depth, piece = value.shape[-1], layout.query_tile
    order = by_content(key, layout)
    blocks, tiles = triton.cdiv(length, piece), layout.tiles(length)
    pieces = blocks + order.shape[-1] // piece
    key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (key, value))

    def empty(*shape: int, dtype: torch.dtype = key.dtype) -> torch.Tensor:
        return torch.empty((batch, heads, *shape), dtype=dtype, device=key.device)

    rows = pieces * piece
    made = Tables(
        order, empty(rows, width), empty(rows, depth), empty(tiles, width), empty(tiles, depth),
        empty(tiles, width, dtype=torch.float32), empty(tiles, width, dtype=torch.float32), empty(pieces, width, depth),
    )  # fmt: skip
    options = tables_options(width, depth, piece, key.dtype)
    tables_kernel[pieces, triton.cdiv(width, options["WIDTH"]), batch * heads](
        key, value, *made, heads, length, blocks, pieces, width, depth, *key.stride()[:3], *value.stride()[:3],
        WIDE=widened(key), PIECE=piece, KEY_TILE=layout.key_tile, **options,
    )  # fmt: skip
    return made


def halve_options(width: int, size: int) -> dict[str, int]:
    """Keys that a program looks at together: what it holds of them is in float32 and stays in registers."""
    chunk = min(size, 16384 // padded(width))
    return configuration(max(1, min(8, chunk * padded(width) // 2048)), 2, SIZE=size, CHUNK=chunk, WIDTH=padded(width))


def tables_options(width: int, depth: int, piece: int, dtype: torch.dtype) -> dict[str, int]:
    """Columns of keys and of values that one program multiplies at a time: nothing spills on sm_80, sm_90 or sm_100."""
    columns, others, warps = (64, 64, 4) if dtype.itemsize == 2 else (32, 32, 4)
    return configuration(warps if piece <= 64 else 8, 1, WIDTH=min(columns, padded(width)), DEPTH=min(others, padded(depth)))
