"""Which tiles of keys each tile of queries attends to exactly, and what all others weigh, on a GPU in Triton.

`moments`: mean and variance of the logits of a tile of keys for the centre of a tile of queries; keys stream past, no centres x keys
matrix is made. `choose`: the greatest scores by a search over their bits, the masses, and the share of each tile in the pooled H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .reference import FLOOR, NEVER
from .triton_options import ANY_SIZE, LOG2E, block_of, configuration, padded, widened
from .triton_tiles import KeyTiles

TINY = torch.finfo(torch.float32).tiny
STORED = 8
"""Tiles whose moments are written together: eight floats are the 32 bytes that memory takes at once."""


class Choice(NamedTuple):
    """For each tile of queries the `chosen` tiles of keys [B, H, I, most] in order of their number (int32; the first `budgets` [H] of
    them), the `mass` of each tile beyond its logit [B, H, I, J] (log2; no less than `NEVER` for those that are exact or empty), and the
    `share` [B, H, I, J] of each in the pooled first-order term."""

    chosen: torch.Tensor
    budgets: torch.Tensor
    mass: torch.Tensor
    share: torch.Tensor


@triton.jit(do_not_specialize=ANY_SIZE)
def moments_kernel(
    centres, keys, totals, means, variances, heads, group, blocks, tiles, width, scale, FLOOR: tl.constexpr, TINY: tl.constexpr,
    TILE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STORED: tl.constexpr,
):  # fmt: skip
    """Moments of STORED tiles of keys for BLOCK centres of one head."""
    head, d = tl.program_id(2), tl.arange(0, WIDTH)
    i, first = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.program_id(0) * STORED
    total = tl.load(totals + head // heads)
    own = (head.to(tl.int64) * blocks + i)[:, None]
    centre = tl.load(centres + own * width + d[None, :], (i[:, None] < blocks) & (d[None, :] < width), 0.0)
    keys += (head // group).to(tl.int64) * tiles * TILE * width
    if WIDE:
        centre = centre.to(tl.float32)
    column = tl.arange(0, STORED)
    found, spread = tl.zeros((BLOCK, STORED), tl.float32), tl.zeros((BLOCK, STORED), tl.float32)
    for at in range(STORED):
        j = first + at
        seen, mean, square = 0, tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for start in range(0, TILE, ROWS):
            within = start + tl.arange(0, ROWS)
            inside = (within < TILE) & (j * TILE + within < total)
            place = (j * TILE + within).to(tl.int64)[None, :] * width + d[:, None]
            row = tl.load(keys + place, inside[None, :] & (d[:, None] < width), 0.0).to(centre.dtype)
            logits = tl.dot(centre, row, input_precision="tf32x3") * scale
            # Means and sums of squares about them, of the rows so far and of these, become those of all (Chan et al.).
            count = tl.sum(inside.to(tl.int32), 0)
            both = tl.maximum(seen + count, 1)
            new = tl.sum(logits, 1) / tl.maximum(count, 1)
            away = tl.where(inside[None, :], logits - new[:, None], 0.0)
            square += tl.sum(away * away, 1) + (new - mean) * (new - mean) * (seen * count / both)
            mean += (new - mean) * (count / both)
            seen += count
        variance = square / tl.maximum(seen, 1)
        floor = FLOOR * (variance + mean * mean) + TINY
        found = tl.where(column[None, :] == at, mean[:, None], found)
        spread = tl.where(column[None, :] == at, tl.maximum(variance, floor)[:, None], spread)
    j = first + column
    stored = (i[:, None] < blocks) & (j[None, :] < tiles)
    tl.store(means + own * tiles + j[None, :], found, stored)
    tl.store(variances + own * tiles + j[None, :], spread, stored)


@triton.jit
def greatest(bits, inside, budget):
    """Whether each of a row of unsigned integers is among the `budget` greatest `inside`, the first ones where they are equal.

    The budget-th greatest is found bit by bit: the greatest integer that so many reach. Outside it, `bits` are 0."""
    least = tl.zeros((1,), tl.uint32)
    for step in range(32):
        trial = least | (tl.full((1,), 1, tl.uint32) << (31 - step))
        least = tl.where(tl.sum((bits >= trial).to(tl.int32), 0) >= budget, trial, least)
    above, level = bits > least, (bits == least) & inside
    first_of_level = tl.cumsum(level.to(tl.int32), 0) <= budget - tl.sum(above.to(tl.int32), 0)
    return above | (level & first_of_level)


@triton.jit
def ordered(x):
    """Floats as unsigned integers in the same order."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 != 0, ~bits, bits | 0x80000000)


@triton.jit(do_not_specialize=ANY_SIZE)
def choose_kernel(
    means, variances, totals, budgets, chosen, mass, share, heads, tiles, tile, most,
    NEVER: tl.constexpr, LOG2E: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of queries: its row of moments once in, its choice, masses and shares once out."""
    head, j = tl.program_id(1), tl.arange(0, COLUMNS)
    row = (head.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * tiles
    budget = tl.minimum(tl.load(budgets + head % heads), tiles)
    count = tl.minimum(tl.maximum(tl.load(totals + head // heads) - j * tile, 0), tile)
    mean, variance = tl.load(means + row + j, j < tiles, 0.0), tl.load(variances + row + j, j < tiles, 1.0)
    log_count = tl.where(count > 0, tl.log(tl.maximum(count, 1).to(tl.float32)), NEVER)
    score = mean + log_count + tl.log(variance)
    exact = greatest(tl.where(j < tiles, ordered(score), 0), j < tiles, budget)
    slot = tl.cumsum(exact.to(tl.int32), 0) - 1
    tl.store(chosen + (row // tiles) * most + slot, j, exact)
    # Read once more, behind that store: held through the search they would take more registers than a thread has.
    mean, variance = tl.load(means + row + j, j < tiles, 0.0), tl.load(variances + row + j, j < tiles, 1.0)
    far = (count > 0) & (j < tiles) & (exact == 0)
    own = tl.where(far, log_count + tl.log(1 + variance / 2), NEVER)
    tl.store(mass + row + j, own * LOG2E, j < tiles)
    logit = tl.where(far, mean + own, NEVER)
    weight = tl.where(far, tl.exp(logit - tl.max(logit, 0)), 0.0)
    tl.store(share + row + j, weight / tl.maximum(tl.sum(weight, 0), 1e-30), j < tiles)


def moments(centres: torch.Tensor, keys: KeyTiles, tile: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [B, H, I, J], float32, of `scale` c.k over each tile of keys for `centres` [B, H, I, D]."""
    batch, heads, blocks, width = centres.shape
    tiles = keys.key_means.shape[2]
    found = [torch.empty((batch, heads, blocks, tiles), dtype=torch.float32, device=centres.device) for _ in range(2)]
    options = moments_options(width, tile, centres.dtype)
    moments_kernel[triton.cdiv(tiles, STORED), triton.cdiv(blocks, options["BLOCK"]), batch * heads](
        centres, keys.keys, keys.totals, *found, heads, heads // keys.keys.shape[1], blocks, tiles, width, scale,
        FLOOR=FLOOR, TINY=TINY, WIDE=widened(centres), STORED=STORED, **options,
    )  # fmt: skip
    return found[0], found[1]


def choose(
    mean: torch.Tensor,
    variance: torch.Tensor,
    totals: torch.Tensor,
    budgets: torch.Tensor,
    most: int,
    tile: int,
    dtype: torch.dtype,
) -> Choice:
    """The choice by moments [B, H, I, J]: the `budgets` [H] (int32, none above `most`) tiles of greatest mean + log n + log variance,
    those of lower number first where scores are equal. `share` is of the `dtype`."""
    batch, heads, blocks, tiles = mean.shape
    chosen = torch.empty((batch, heads, blocks, most), dtype=torch.int32, device=mean.device)
    mass, share = torch.empty_like(mean), torch.empty_like(mean, dtype=dtype)
    choose_kernel[blocks, batch * heads](
        mean, variance, totals, budgets, chosen, mass, share, heads, tiles, tile, most,
        NEVER=NEVER, LOG2E=LOG2E, **choose_options(tiles),
    )  # fmt: skip
    return Choice(chosen, budgets, mass, share)


HALF = {16: (64, 64, 8), 32: (64, 64, 4), 64: (64, 64, 4), 128: (64, 64, 4), 256: (64, 64, 8)}
FULL = {16: (64, 64, 8), 32: (64, 64, 8), 64: (32, 64, 4), 128: (32, 16, 4)}
"""Centres, keys and warps by columns, for half precision and for float32: nothing spills on sm_80, sm_90 or sm_100."""


def moments_options(width: int, tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of `moments_kernel` for rows of `width`."""
    block, rows, warps = (HALF if dtype.itemsize == 2 else FULL)[padded(width)]
    return configuration(warps, 2, TILE=tile, BLOCK=block, ROWS=block_of(tile, rows), WIDTH=padded(width))


def choose_options(tiles: int) -> dict[str, int]:
    """Constants of `choose_kernel` for a row of so many tiles: it stays in registers up to 4096 tiles, and spills with more."""
    columns = padded(tiles)
    return configuration(min(16, max(1, columns // 256)), 1, COLUMNS=columns)
