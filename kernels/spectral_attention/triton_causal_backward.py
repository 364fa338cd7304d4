"""Gradient of the queries of causal spectral attention in Triton, from exact tiles and from means; a tile's own keys are not among them.

Weights are computed once more from the log-sum-exp. Rows are in tiles, zero behind the end of the text.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .causal import Layout
from .reference import NEVER
from .triton_attend_backward import QUERIES, Rows, backward_options
from .triton_causal_attend import read_rows
from .triton_causal_scores import CausalChoice, sizes_of
from .triton_causal_tiles import Tables, closed_before, row_of
from .triton_options import ANY_SIZE, LOG2E, widened


@triton.jit
def _columns(found, query, gradient, key, value, bias, top, own, held, scale, LOG2E: tl.constexpr):
    """(`found` and what some columns give to the gradient of the queries, gradients of the logits of those columns)."""
    key, value = key.to(query.dtype), value.to(query.dtype)
    logits = tl.dot(query, tl.trans(key), input_precision="tf32x3") * (scale * LOG2E) + bias[None, :]
    weights = tl.where(held[None, :], tl.exp2(logits - top[:, None]), 0.0)
    slopes = weights * (tl.dot(gradient, tl.trans(value), input_precision="tf32x3") - own[:, None])
    return tl.dot(slopes.to(query.dtype), key, found, input_precision="tf32x3"), slopes


@triton.jit(do_not_specialize=ANY_SIZE)
def queries_causal_kernel(
    queries, gradients, logsum, delta, far, keys, values, key_means, value_means, chosen, budgets, mass, d_queries, d_variances, row_mass,
    heads, group, first, count, blocks, tiles, slots, neighbours, segments, most, width, depth, scale,
    NEVER: tl.constexpr, LOG2E: tl.constexpr, WIDE: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr,
    SEGMENT: tl.constexpr, SINK: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """BLOCK queries of a tile. By row of the tables it leaves gradients of their variances, summed over those queries, and the masses."""
    SUBS: tl.constexpr = QUERY_TILE // BLOCK
    at, sub, head = count - 1 - tl.program_id(0) // SUBS, tl.program_id(0) % SUBS, tl.program_id(1)
    i = first + at
    shared, row, listed_at = (head // group).to(tl.int64), head.to(tl.int64) * blocks + i, head.to(tl.int64) * count + at
    place = row * QUERY_TILE + sub * BLOCK + tl.arange(0, BLOCK)
    d, e, column, every = tl.arange(0, WIDTH), tl.arange(0, DEPTH), tl.arange(0, ROWS), place >= 0
    query, gradient = read_rows(queries, place, width, d, every), read_rows(gradients, place, depth, e, every)
    if WIDE:
        query, gradient = query.to(tl.float32), gradient.to(tl.float32)
    top, own, away = tl.load(logsum + place), tl.load(delta + place), tl.load(far + place)
    keys += shared * tiles * KEY_TILE * width
    values += shared * tiles * KEY_TILE * depth
    key_means += shared * tiles * width
    value_means += shared * tiles * depth
    found, usable = tl.zeros((BLOCK, WIDTH), tl.float32), i * (QUERY_TILE // KEY_TILE)
    budget = tl.load(budgets + head % heads)
    exact = tl.minimum(budget, usable) * KEY_TILE
    listed, far_slots = tl.where(budget >= usable, 0, exact), tl.where(budget >= usable, 0, usable)
    for start in range(0, exact, ROWS):
        number = start + column
        tile = tl.load(chosen + listed_at * most + number // KEY_TILE, number < listed, 0)
        at_row = tl.where(listed == 0, number // KEY_TILE, tile) * KEY_TILE + number % KEY_TILE
        key = read_rows(keys, at_row, width, d, number < exact)
        value = read_rows(values, at_row, depth, e, number < exact)
        no_bias = tl.zeros((ROWS,), tl.float32)
        found, _ = _columns(found, query, gradient, key, value, no_bias, top, own, number < exact, scale, LOG2E)
    closed = closed_before(i * QUERY_TILE, segments, KEY_TILE, SEGMENT, SINK)
    for start in range(0, far_slots, ROWS):
        slot = start + column
        at_row = row_of(slot, closed, neighbours, KEY_TILE, SEGMENT, SINK)
        key = read_rows(key_means, at_row, width, d, slot < far_slots)
        value = read_rows(value_means, at_row, depth, e, slot < far_slots)
        bias = tl.load(mass + listed_at * slots + slot, slot < far_slots, NEVER)
        seen = bias > NEVER / 2
        found, slopes = _columns(found, query, gradient, key, value, bias, top, own - away, seen, scale, LOG2E)
        # The mass is the key tile times 1 + var / 2.
        spread = tl.where(seen, tl.sum(slopes, 0) * tl.exp2(tl.where(seen, -bias, 0.0)) * (KEY_TILE / 2), 0.0)
        tl.store(d_variances + (row * SUBS + sub) * tiles + at_row, spread, slot < far_slots)
        tl.store(row_mass + row * tiles + at_row, bias, slot < far_slots)
    tl.store(d_queries + place[:, None] * width + d[None, :], found * scale, d[None, :] < width)


def queries_causal_backward(
    rows: Rows,
    tables: Tables,
    choices: list[CausalChoice],
    budgets: torch.Tensor,
    layout: Layout,
    length: int,
    scale: float,
    unseen: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the queries [B, H, I * tile, D] and of the variances [B, H, I, T], the first-order term and own keys aside, and the
    masses [B, H, I, T] (log2), `unseen` where a tile of queries does not see a tile of keys; all float32."""
    (batch, heads, places, width), depth = rows.queries.shape, rows.gradients.shape[-1]
    shared, tiles = tables.means.shape[1:3]
    blocks, options = places // layout.query_tile, queries_causal_options(width, depth, layout.query_tile, rows.queries.dtype)
    subs = layout.query_tile // options["BLOCK"]
    found = torch.empty_like(rows.queries, dtype=torch.float32)
    of_variances = torch.zeros((batch, heads, blocks, subs, tiles), dtype=torch.float32, device=found.device)
    mass = torch.full((batch, heads, blocks, tiles), unseen, dtype=torch.float32, device=found.device)
    for choice in choices:
        count = choice.chosen.shape[2]
        queries_causal_kernel[count * subs, batch * heads](
            *rows, tables.keys, tables.values, tables.key_means, tables.value_means, choice.chosen, budgets, choice.mass, found,
            of_variances, mass, heads, heads // shared, choice.first, count, blocks, tiles, choice.mass.shape[-1],
            blocks * (layout.query_tile // layout.key_tile), layout.segments(length), choice.chosen.shape[-1], width, depth, scale,
            NEVER=NEVER, LOG2E=LOG2E, WIDE=widened(rows.queries), **sizes_of(layout), **options,
        )  # fmt: skip
    return found, of_variances.sum(3), mass


CAUSAL = QUERIES[0] | {32: (64, 64, 8, 2)}, QUERIES[1] | {32: (64, 32, 8, 2)}
"""As `QUERIES`, without spills on sm_80, sm_90 and sm_100."""


def queries_causal_options(width: int, depth: int, query_tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of `queries_causal_kernel` for rows of `width` and `depth`."""
    found = backward_options(CAUSAL, width, depth, query_tile, query_tile, dtype)
    return {name: size for name, size in found.items() if name not in ("QUERY_TILE", "TILE")}
