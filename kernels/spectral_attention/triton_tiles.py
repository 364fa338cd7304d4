"""Tiles of sorted rows reduced to their moments on a GPU, in Triton: means, counts, and what keys and values have in common (H_j)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .triton_options import ANY_SIZE, block_of, configuration, padded, widened


class KeyTiles(NamedTuple):
    """Keys and values in the order of their leaves [B, Hkv, J * tile, D | Dv], zero where a tile holds none; how many of the rows count
    [B] (int32); means of tiles [B, Hkv, J, D | Dv]; H_j [B, Hkv, J, D, Dv]; all in the dtype of the keys."""

    keys: torch.Tensor
    values: torch.Tensor
    totals: torch.Tensor
    key_means: torch.Tensor
    value_means: torch.Tensor
    slopes: torch.Tensor


@triton.jit
def _rows_of(x, order, place, total, d, width, stride, end, ORDERED: tl.constexpr = True):
    """Rows of `x` at places, in the order where there is one, zero from `total` and from the tile's end on."""
    inside = (place < total) & (place < end)
    index = place
    if ORDERED:
        index = tl.load(order + place, inside, 0)
    rows = tl.load(x + index[:, None].to(tl.int64) * stride + d[None, :], inside[:, None] & (d[None, :] < width), 0.0)
    return rows, inside


@triton.jit(do_not_specialize=ANY_SIZE)
def key_tiles_kernel(
    key, value, order, totals, keys, values, key_means, value_means, slopes, heads, length, tiles, width, depth,
    k_batch, k_head, k_row, v_batch, v_head, v_row,
    TILE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of one head, WIDTH columns of its keys against DEPTH columns of its values at a time."""
    j, part, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d, batch = part * WIDTH + tl.arange(0, WIDTH), head // heads
    key += batch.to(tl.int64) * k_batch + (head % heads).to(tl.int64) * k_head
    value += batch.to(tl.int64) * v_batch + (head % heads).to(tl.int64) * v_head
    order += head.to(tl.int64) * length
    total, end = tl.load(totals + batch), (j + 1) * TILE
    count = tl.maximum(tl.minimum(total - j * TILE, TILE), 1)
    of_tile = head.to(tl.int64) * tiles + j
    own_depth = tl.where(part == 0, depth, 0)
    summed = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, TILE, ROWS):
        place = j * TILE + start + tl.arange(0, ROWS)
        rows, _ = _rows_of(key, order, place, total, d, width, k_row, end)
        summed += tl.sum(rows.to(tl.float32), 0)
        target = (head.to(tl.int64) * tiles * TILE + place)[:, None] * width + d[None, :]
        tl.store(keys + target, rows, (place[:, None] < end) & (d[None, :] < width))
    mean = summed / count
    tl.store(key_means + of_tile * width + d, mean, d < width)
    for first in range(0, depth, DEPTH):
        e = first + tl.arange(0, DEPTH)
        together, of_values = tl.zeros((WIDTH, DEPTH), tl.float32), tl.zeros((DEPTH,), tl.float32)
        for start in range(0, TILE, ROWS):
            at = j * TILE + start + tl.arange(0, ROWS)
            row, inside = _rows_of(key, order, at, total, d, width, k_row, end)
            seen, _ = _rows_of(value, order, at, total, e, depth, v_row, end)
            centred = tl.where(inside[:, None], row.to(tl.float32) - mean[None, :], 0.0)
            if WIDE:
                seen = seen.to(tl.float32)
            together = tl.dot(tl.trans(centred.to(seen.dtype)), seen, together, input_precision="tf32x3")
            of_values += tl.sum(seen.to(tl.float32), 0)
            spread = (head.to(tl.int64) * tiles * TILE + at)[:, None] * depth + e[None, :]
            tl.store(values + spread, seen, (at[:, None] < end) & (e[None, :] < own_depth))
        spot = (of_tile * width + d)[:, None] * depth + e[None, :]
        tl.store(slopes + spot, together / count, (d[:, None] < width) & (e[None, :] < depth))
        tl.store(value_means + of_tile * depth + e, of_values / count, e < own_depth)


@triton.jit(do_not_specialize=ANY_SIZE)
def centres_kernel(
    query, order, centres, heads, length, tiles, width, batch_stride, head_stride, row_stride,
    ORDERED: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The mean of a tile of queries."""
    i, head = tl.program_id(0), tl.program_id(1)
    d, end = tl.arange(0, WIDTH), tl.minimum((i + 1) * TILE, length)
    query += (head // heads).to(tl.int64) * batch_stride + (head % heads).to(tl.int64) * head_stride
    summed = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, TILE, ROWS):
        place = i * TILE + start + tl.arange(0, ROWS)
        rows, _ = _rows_of(query, order + head.to(tl.int64) * length, place, length, d, width, row_stride, end, ORDERED)
        summed += tl.sum(rows.to(tl.float32), 0)
    tl.store(centres + (head.to(tl.int64) * tiles + i) * width + d, summed / (end - i * TILE), d < width)


def key_tiles(key: torch.Tensor, value: torch.Tensor, order: torch.Tensor, totals: torch.Tensor, tile: int) -> KeyTiles:
    """The tiles of `key` [B, Hkv, S, D] and `value` [B, Hkv, S, Dv] in an `order` [B, Hkv, S] of which `totals` [B] rows count."""
    batch, heads, length, width = key.shape
    depth, tiles = value.shape[-1], triton.cdiv(length, tile)
    key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (key, value))

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty((batch, heads, *shape), dtype=key.dtype, device=key.device)

    made = KeyTiles(
        empty(tiles * tile, width), empty(tiles * tile, depth), totals, empty(tiles, width), empty(tiles, depth),
        empty(tiles, width, depth),
    )  # fmt: skip
    options = tiles_options(width, depth, tile, key.dtype)
    key_tiles_kernel[tiles, triton.cdiv(width, options["WIDTH"]), batch * heads](
        key, value, order, totals, made.keys, made.values, made.key_means, made.value_means, made.slopes, heads, length, tiles,
        width, depth, *key.stride()[:3], *value.stride()[:3], WIDE=widened(key), **options,
    )  # fmt: skip
    return made


def query_centres(query: torch.Tensor, order: torch.Tensor | None, tile: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Means [B, H, I, D] of the tiles of `query` [B, H, N, D] in an order [B, H, N], as they stand without one; in a dtype, by default its
    own."""
    batch, heads, length, width = query.shape
    query, tiles = query if query.stride(-1) == 1 else query.contiguous(), triton.cdiv(length, tile)
    centres = torch.empty((batch, heads, tiles, width), dtype=dtype or query.dtype, device=query.device)
    centres_kernel[tiles, batch * heads](
        query, centres if order is None else order, centres, heads, length, tiles, width, *query.stride()[:3],
        ORDERED=order is not None, **centres_options(width, tile),
    )  # fmt: skip
    return centres


def tiles_options(width: int, depth: int, tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Rows and columns of keys and of values that one program multiplies at a time: nothing spills on sm_80, sm_90 or sm_100."""
    rows, columns, others, warps = (64, 64, 64, 4) if dtype.itemsize == 2 else (32, 64, 32, 4)
    return configuration(
        warps, 2, TILE=tile, ROWS=block_of(tile, rows), WIDTH=min(columns, padded(width)), DEPTH=min(others, padded(depth))
    )


def centres_options(width: int, tile: int) -> dict[str, int]:
    """Rows that one program adds at a time."""
    return configuration(4, 2, TILE=tile, ROWS=block_of(tile, 64), WIDTH=padded(width))


def tiles_backward(
    tiles: KeyTiles,
    tile: int,
    d_keys: torch.Tensor,
    d_values: torch.Tensor,
    d_key_means: torch.Tensor,
    d_value_means: torch.Tensor,
    d_slopes: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the sorted keys and values, float32, from those of what `key_tiles` gives: a mean shares its gradient among its rows,
    and H_j = mean (k - k_j)^T v gives (v - v_j) dH^T / n to a key and (k - k_j) dH / n to a value."""
    heads, (rows, width), depth = tiles.keys.shape[:2], tiles.keys.shape[2:], tiles.values.shape[-1]
    places = torch.arange(rows, device=tiles.keys.device).view(-1, tile)
    held = places < tiles.totals[:, None, None, None]
    share = held / held.sum(-1, keepdim=True).clamp(min=1)
    keys, values = (x.view(*heads, -1, tile, x.shape[-1]).float() for x in (tiles.keys, tiles.values))
    of_values = (values - tiles.value_means[..., None, :].float()) @ d_slopes.mT + d_key_means[..., None, :]
    of_keys = (keys - tiles.key_means[..., None, :].float()) @ d_slopes + d_value_means[..., None, :]
    return (
        d_keys + (of_values * share[..., None]).view(*heads, rows, width),
        d_values + (of_keys * share[..., None]).view(*heads, rows, depth),
    )
