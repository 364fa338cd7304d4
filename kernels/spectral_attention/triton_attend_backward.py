"""Gradients of the attention kernel in Triton: one kernel for the queries, one for keys and values, exact tiles and means alike.

Weights are computed once more from the log-sum-exp. All rows are in the order of their tiles, zero where a tile holds none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .reference import NEVER
from .triton_options import ANY_SIZE, LOG2E, block_of, configuration, padded, widened
from .triton_scores import Choice
from .triton_tiles import KeyTiles

FAR_ROWS = 64
"""Means of tiles that a program takes at a time at least, if it can hold them: they do not end with a tile."""


class Rows(NamedTuple):
    """Queries [B, H, I * tile, D] and gradients of their outputs [B, H, I * tile, Dv] in the dtype of the queries; in float32 [B, H,
    I * tile] the log-sum-exp, the product of output and gradient, and the gradient of the share that lies in means of tiles."""

    queries: torch.Tensor
    gradients: torch.Tensor
    logsum: torch.Tensor
    delta: torch.Tensor
    far: torch.Tensor


@triton.jit
def _slice(x, start, width: tl.constexpr, columns, row, inside):
    d = tl.arange(0, width)
    place = (start + row.to(tl.int64))[:, None] * columns + d[None, :]
    return tl.load(x + place, inside[:, None] & (d[None, :] < columns), 0.0)


@triton.jit(do_not_specialize=ANY_SIZE)
def queries_kernel(
    queries, gradients, logsum, delta, far, keys, values, key_means, value_means, totals, chosen, budgets, mass, d_queries, d_mass,
    heads, group, tiles, most, width, depth, scale,
    NEVER: tl.constexpr, LOG2E: tl.constexpr, WIDE: tl.constexpr, QUERY_TILE: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Gradients of BLOCK queries, and the sums over them of those of the masses of all tiles."""
    SUBS: tl.constexpr = (QUERY_TILE + BLOCK - 1) // BLOCK
    STEPS: tl.constexpr = (TILE + ROWS - 1) // ROWS
    i, head = tl.program_id(0) // SUBS, tl.program_id(1)
    shared, row = (head // group).to(tl.int64), head.to(tl.int64) * (tl.num_programs(0) // SUBS) + i
    within = (tl.program_id(0) % SUBS) * BLOCK + tl.arange(0, BLOCK)
    inside = within < QUERY_TILE
    query = _slice(queries, row * QUERY_TILE, WIDTH, width, within, inside)
    gradient = _slice(gradients, row * QUERY_TILE, DEPTH, depth, within, inside)
    if WIDE:
        query, gradient = query.to(tl.float32), gradient.to(tl.float32)
    place = row * QUERY_TILE + within
    top, own = tl.load(logsum + place, inside, 0.0), tl.load(delta + place, inside, 0.0)
    away = tl.load(far + place, inside, 0.0)
    found, total = tl.zeros((BLOCK, WIDTH), tl.float32), tl.load(totals + head // heads)
    column = tl.arange(0, ROWS)
    for step in range(tl.minimum(tl.load(budgets + head % heads), tiles) * STEPS):
        start = (step % STEPS) * ROWS
        j = tl.load(chosen + row * most + step // STEPS)
        held = (start + column < TILE) & (j * TILE + start + column < total)
        key = _slice(keys, shared * tiles * TILE + j * TILE + start, WIDTH, width, column, held).to(query.dtype)
        value = _slice(values, shared * tiles * TILE + j * TILE + start, DEPTH, depth, column, held).to(query.dtype)
        logits = tl.dot(query, tl.trans(key), input_precision="tf32x3") * (scale * LOG2E)
        weights = tl.where(held[None, :], tl.exp2(logits - top[:, None]), 0.0)
        changes = tl.dot(gradient, tl.trans(value), input_precision="tf32x3")
        slopes = weights * (changes - own[:, None])
        found = tl.dot(slopes.to(key.dtype), key, found, input_precision="tf32x3")
    for start in range(0, tiles, ROWS):
        there = start + column < tiles
        key = _slice(key_means, shared * tiles + start, WIDTH, width, column, there).to(query.dtype)
        value = _slice(value_means, shared * tiles + start, DEPTH, depth, column, there).to(query.dtype)
        logits = tl.dot(query, tl.trans(key), input_precision="tf32x3") * (scale * LOG2E)
        logits += tl.load(mass + row * tiles + start + column, there, NEVER)[None, :]
        changes = tl.dot(gradient, tl.trans(value), input_precision="tf32x3")
        slopes = tl.exp2(logits - top[:, None]) * (changes + (away - own)[:, None])
        slopes = tl.where(logits > NEVER / 2, slopes, 0.0)
        found = tl.dot(slopes.to(key.dtype), key, found, input_precision="tf32x3")
        part = (row * SUBS + tl.program_id(0) % SUBS) * tiles + start + column
        tl.store(d_mass + part, tl.sum(slopes, 0), there)
    d = tl.arange(0, WIDTH)
    tl.store(d_queries + place[:, None] * width + d[None, :], found * scale, inside[:, None] & (d[None, :] < width))


@triton.jit(do_not_specialize=ANY_SIZE)
def keys_kernel(
    queries, gradients, logsum, delta, far, keys, values, totals, readers, counts, mass, d_keys, d_values,
    heads, group, blocks, tiles, width, depth, scale,
    NEVER: tl.constexpr, LOG2E: tl.constexpr, WIDE: tl.constexpr, FAR: tl.constexpr, RANGED: tl.constexpr, QUERY_TILE: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Gradients of ROWS keys and values of one tile from the tiles of queries that read it exactly, or with FAR of ROWS means from all, or
    with RANGED from those of a range: `counts` many from `readers` on."""
    SUBS: tl.constexpr = (TILE + ROWS - 1) // ROWS
    STEPS: tl.constexpr = (QUERY_TILE + BLOCK - 1) // BLOCK
    part, shared = tl.program_id(0), tl.program_id(1)
    column, batch = tl.arange(0, ROWS), shared // (heads // group)
    if FAR:
        number = part * ROWS + column
        held = number < tiles
        j, base = 0, shared.to(tl.int64) * tiles
    else:
        j = part // SUBS
        within = (part % SUBS) * ROWS + column
        number = j * TILE + within
        held = (within < TILE) & (number < tl.load(totals + batch))
        base = shared.to(tl.int64) * tiles * TILE
    key = _slice(keys, base, WIDTH, width, number, held)
    value = _slice(values, base, DEPTH, depth, number, held)
    if WIDE:
        key, value = key.to(tl.float32), value.to(tl.float32)
    found, seen = tl.zeros((ROWS, WIDTH), tl.float32), tl.zeros((ROWS, DEPTH), tl.float32)
    for member in range(group):
        head = shared.to(tl.int64) * group + member
        reading, begin = blocks, 0
        if not FAR:
            reading = tl.load(counts + head * tiles + j)
        if RANGED:
            reading, begin = tl.load(counts + part), tl.load(readers + part)
        for step in range(reading * STEPS):
            i = begin + step // STEPS
            if not FAR:
                i = tl.load(readers + (head * tiles + j) * blocks + i)
            inside = (step % STEPS) * BLOCK + tl.arange(0, BLOCK)
            start = (head * blocks + i) * QUERY_TILE
            query = _slice(queries, start, WIDTH, width, inside, inside < QUERY_TILE).to(key.dtype)
            gradient = _slice(gradients, start, DEPTH, depth, inside, inside < QUERY_TILE).to(key.dtype)
            top = tl.load(logsum + start + inside, inside < QUERY_TILE, 0.0)
            own = tl.load(delta + start + inside, inside < QUERY_TILE, 0.0)
            logits = tl.dot(key, tl.trans(query), input_precision="tf32x3") * (scale * LOG2E)
            if FAR:
                own -= tl.load(far + start + inside, inside < QUERY_TILE, 0.0)
                logits += tl.load(mass + (head * blocks + i) * tiles + number, held, NEVER)[:, None]
            weights = tl.where(held[:, None] & (logits > NEVER / 2), tl.exp2(logits - top[None, :]), 0.0)
            seen = tl.dot(weights.to(gradient.dtype), gradient, seen, input_precision="tf32x3")
            changes = tl.dot(value, tl.trans(gradient), input_precision="tf32x3")
            slopes = weights * (changes - own[None, :])
            found = tl.dot(slopes.to(query.dtype), query, found, input_precision="tf32x3")
    d, e = tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    place = base + number
    written = number < tiles if FAR else within < TILE
    tl.store(d_keys + place[:, None] * width + d[None, :], found * scale, written[:, None] & (d[None, :] < width))
    tl.store(d_values + place[:, None] * depth + e[None, :], seen, written[:, None] & (e[None, :] < depth))


def queries_backward(
    rows: Rows, tiles: KeyTiles, choice: Choice, scale: float, query_tile: int, tile: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the queries [B, H, I * tile, D] and of the masses (natural log) [B, H, I, J], float32, the first-order term aside."""
    batch, heads, blocks, count = choice.mass.shape
    width, depth = rows.queries.shape[-1], rows.gradients.shape[-1]
    options = queries_options(width, depth, query_tile, tile, rows.queries.dtype)
    subs = triton.cdiv(query_tile, options["BLOCK"])
    found = torch.empty_like(rows.queries, dtype=torch.float32)
    of_mass = torch.empty((batch, heads, blocks, subs, count), dtype=torch.float32, device=found.device)
    queries_kernel[blocks * subs, batch * heads](
        *rows, tiles.keys, tiles.values, tiles.key_means, tiles.value_means, tiles.totals, choice.chosen, choice.budgets, choice.mass,
        found, of_mass, heads, heads // tiles.keys.shape[1], count, choice.chosen.shape[-1], width, depth, scale,
        NEVER=NEVER, LOG2E=LOG2E, WIDE=widened(rows.queries), **options,
    )  # fmt: skip
    return found, of_mass.sum(3)


def keys_backward(
    rows: Rows,
    tiles: KeyTiles,
    choice: Choice,
    scale: float,
    query_tile: int,
    tile: int,
    far: bool,
    seeing: Callable[[int], tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of sorted keys and values, or with `far` of their means, float32, the first-order term aside. `seeing`(n) gives for each n
    means the first tile of queries that sees one of them and how many may from there on (int32), if it is not all."""
    batch, heads, blocks, count = choice.mass.shape
    keys, values = (tiles.key_means, tiles.value_means) if far else (tiles.keys, tiles.values)
    (shared, _, width), depth = keys.shape[1:], values.shape[-1]
    options = keys_options(width, depth, query_tile, max(tile, FAR_ROWS) if far else tile, keys.dtype)
    subs = triton.cdiv(tile, options["ROWS"])
    found, seen = (torch.empty_like(x, dtype=torch.float32) for x in (keys, values))
    if far:
        readers, counts = (tiles.totals, tiles.totals) if seeing is None else seeing(options["ROWS"])
    else:
        readers, counts = _readers(choice)
    keys_kernel[triton.cdiv(count, options["ROWS"]) if far else count * subs, batch * shared](
        *rows, keys, values, tiles.totals, readers, counts, choice.mass, found, seen,
        heads, heads // shared, blocks, count, width, depth, scale, NEVER=NEVER, LOG2E=LOG2E, WIDE=widened(keys), FAR=far,
        RANGED=seeing is not None, **options,
    )  # fmt: skip
    return found, seen


def _readers(choice: Choice) -> tuple[torch.Tensor, torch.Tensor]:
    """The tiles of queries that read each tile of keys exactly [B, H, J, I], those first, and how many do [B, H, J]; int32. An empty tile
    counts as read by all: nothing comes of it."""
    exact = (choice.mass < NEVER / 2).mT.contiguous()
    readers = exact.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return readers.to(torch.int32), exact.sum(-1, dtype=torch.int32)


QUERIES = (
    {16: (64, 64, 4, 2), 32: (64, 64, 4, 2), 64: (64, 64, 8, 2), 128: (64, 64, 8, 2), 256: (64, 32, 8, 2)},
    {16: (64, 32, 8, 2), 32: (32, 32, 4, 2), 64: (32, 32, 8, 2), 128: (16, 32, 8, 2)},
)
KEYS = (
    {16: (32, 32, 4, 2), 32: (64, 64, 8, 2), 64: (32, 64, 4, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 2)},
    {16: (32, 32, 4, 2), 32: (16, 16, 8, 2), 64: (32, 32, 8, 2), 128: (16, 16, 8, 2)},
)
"""Queries and keys at a time, warps and stages, by columns, in half precision and in float32: no spills on sm_80, sm_90 and sm_100."""


def queries_options(width: int, depth: int, query_tile: int, tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of `queries_kernel` for rows of `width` and `depth`."""
    return backward_options(QUERIES, width, depth, query_tile, tile, dtype)


def keys_options(width: int, depth: int, query_tile: int, tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of `keys_kernel` for rows of `width` and `depth`."""
    return backward_options(KEYS, width, depth, query_tile, tile, dtype)


def backward_options(
    tables: tuple[dict[int, tuple[int, int, int, int]], ...],
    width: int,
    depth: int,
    query_tile: int,
    tile: int,
    dtype: torch.dtype,
) -> dict[str, int]:
    """Constants of a kernel for rows of `width` and `depth` by `tables` for half precision and for float32, of tuples as in `QUERIES`."""
    block, rows, warps, stages = tables[dtype.itemsize // 4][max(padded(width), padded(depth))]
    sizes = block_of(query_tile, block), block_of(tile, rows)
    return configuration(
        warps if sizes == (block, rows) else 4, stages, QUERY_TILE=query_tile, TILE=tile, BLOCK=sizes[0], ROWS=sizes[1],
        WIDTH=padded(width), DEPTH=padded(depth),
    )  # fmt: skip
