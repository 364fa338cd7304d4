"""Spectral sparse attention in plain torch, written as its mathematics: what every faster form of it is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import pad

FLOOR = 1e-6
"""Least in-tile variance of a logit, relative to the tile's mean square: float32 knows a difference of squares no better."""


NEVER = -1e30
"""A logit whose weight is zero; unlike -inf it leaves no NaN where nothing else is there, and none in a gradient."""


class Tiles(NamedTuple):
    """Rows [B, H, tiles, tile, D] in the order of their leaves, zero where a tile holds none, how many each tile holds [B, 1, tiles],
    and their mean [B, H, tiles, D], zero for an empty tile."""

    rows: torch.Tensor
    counts: torch.Tensor
    means: torch.Tensor


def spectral_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    *,
    scale: float,
    tile: int,
    budget: int | Sequence[int],
    key_mask: torch.Tensor | None = None,
    key_tile: int | None = None,
) -> torch.Tensor:
    """softmax(scale q k^T) v with most keys replaced by the moments of their tiles: [B, H, N, Dv] in the query's dtype.

    `query` [B, H, N, D], `key` [B, Hkv, S, D], `value` [B, Hkv, S, Dv], any float dtype, computed in float32; query head h reads KV head
    h // (H / Hkv). Codebooks [H, leaves, D] and [Hkv, leaves, D], leaves in tree order. `key_mask` [B, S] is True where a key counts; a
    row without any key gives zeros.

    Queries and keys are sorted by leaf and cut into tiles of `tile` and of `key_tile` (the same if not given). Tile j holds n keys of
    means k_j and v_j; c is the mean of a tile of scaled queries q, and var the variance of c.k in tile j. The tile of queries attends
    exactly to the `budget` tiles (one number, or one a query head) of greatest c.k_j + log n + log var, what their centroids would lose.
    Every other tile is one more column of
        logit  q.k_j + log n + log(1 + var / 2): the second-order mass of the tile,
        value  v_j + q.H,  H the mean, weighted by those masses at c, of the H_j = mean (k - k_j)^T v: the first-order term, pooled.
    One softmax runs over all columns: weights sum to one, a constant v comes back, and a budget of all tiles is dense attention.

    With the variance in the score the error is a sixth to a quarter lower than without; a mass of exp(var / 2), right for normal logits,
    is worse than no second order at all (trained MiniLM heads).

    The source's SSA (Algorithm 2; `paper.py` has it as printed) takes the keys in the cluster of their query, samples and drops the rest:
    relative error 1.1 at a density where this form has 0.15 (trained MiniLM heads, N = 4096), since most of the mass is in the rest.
    Raises ValueError where the heads do not fit each other.
    """
    plan = layout(
        query, key, value, query_codebook, key_codebook,
        scale=scale, tile=tile, budget=budget, key_mask=key_mask, key_tile=key_tile,
    )  # fmt: skip
    output, _ = attend(plan)
    return rows(output.flatten(2, 3), plan.order.argsort(dim=-1)).to(query.dtype)


class Layout(NamedTuple):
    """What is fixed before any query is looked at alone: the `order` of the queries [B, H, N], the tiles of scaled queries, of keys and of
    values, the tiles `chosen` [B, H, I, b] for each tile of queries and which are `exact` [B, H, I, J], the `mass` [B, H, I, J] that a
    column of a tile has beyond its logit (log; `NEVER` where exact or empty), and `first_order` [B, H, I, D, Dv]."""

    order: torch.Tensor
    queries: Tiles
    keys: Tiles
    values: Tiles
    chosen: torch.Tensor
    exact: torch.Tensor
    mass: torch.Tensor
    first_order: torch.Tensor


def layout(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    *,
    scale: float,
    tile: int,
    budget: int | Sequence[int],
    key_mask: torch.Tensor | None = None,
    key_tile: int | None = None,
) -> Layout:
    """The first half of `spectral_attention`, with its arguments and errors."""
    heads, shared = query.shape[1], key.shape[1]
    if heads % shared or value.shape[1] != shared:
        raise ValueError(f"{heads} query heads cannot share {shared} key heads and {value.shape[1]} value heads.")
    key_tile = key_tile or tile
    order, into_tiles = sorted_by_leaf(query, query_codebook), sorted_by_leaf(key, key_codebook, key_mask)
    queries = tiles_of(query.float() * scale, order, tile)
    keys, values = (each_head(tiles_of(x, into_tiles, key_tile, key_mask), heads // shared) for x in (key, value))
    counts = keys.counts[:, :, None]

    mean, variance = logit_moments(queries.means, keys)
    log_count = counts.clamp(min=1).float().log().masked_fill(counts == 0, NEVER)
    chosen, exact = chosen_tiles(mean + log_count + variance.log(), budget)
    mass = (log_count + (variance / 2).log1p()).masked_fill(exact, NEVER)
    share = (mean + mass).softmax(-1).masked_fill(exact, 0.0)
    centred = (keys.rows - keys.means[..., None, :]).masked_fill(~held(keys), 0.0)
    covariance = centred.mT @ values.rows / counts.clamp(min=1).mT[..., None]
    first_order = torch.einsum("bhij,bhjdv->bhidv", share, covariance)
    return Layout(order, queries, keys, values, chosen, exact, mass, first_order)


def attend(plan: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of each query in its tile [B, H, I, tile, Dv], and the log of what its weights are divided by [B, H, I, tile]."""
    queries, keys, values, chosen = plan.queries.rows, plan.keys, plan.values, plan.chosen
    beyond = ~plan.exact.gather(-1, chosen).repeat_interleave(keys.rows.shape[3], -1)
    unheld = taken(~held(keys), chosen).squeeze(-1) | beyond
    near = (queries @ taken(keys.rows, chosen).mT).masked_fill(unheld[..., None, :], NEVER)
    far = queries @ keys.means[:, :, None].mT + plan.mass[..., None, :]
    logits = torch.cat([near, far], dim=-1)
    near, far = logits.softmax(dim=-1).split([near.shape[-1], far.shape[-1]], dim=-1)
    output = near @ taken(values.rows, chosen) + far @ values.means[:, :, None]
    return output + far.sum(-1, keepdim=True) * (queries @ plan.first_order), logits.logsumexp(dim=-1)


def sorted_by_leaf(vectors: torch.Tensor, codebook: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The order [B, H, N] that sorts `vectors` [B, H, N, D] by the nearest row of `codebook` [H, leaves, D], those that `mask` [B, N]
    leaves out last; ties keep their order. |x - c|^2 is least where x.c - |c|^2 / 2 is greatest."""
    codebook = codebook.float()
    nearness = vectors.float() @ codebook.transpose(-1, -2) - codebook.square().sum(-1)[:, None] / 2
    leaf = nearness.argmax(dim=-1)
    if mask is not None:
        leaf = leaf.masked_fill(~mask[:, None], codebook.shape[1])
    return leaf.argsort(dim=-1, stable=True)


def tiles_of(vectors: torch.Tensor, order: torch.Tensor, tile: int, mask: torch.Tensor | None = None) -> Tiles:
    """`vectors` [B, H, N, D] in that order, cut into float32 tiles, without those that `mask` [B, N] leaves out (`order` has them last)."""
    vectors, length = vectors.float(), vectors.shape[2]
    total = torch.full(vectors.shape[:1], length, device=vectors.device) if mask is None else mask.sum(-1)
    cut = pad(rows(vectors, order), (0, 0, 0, -length % tile)).unflatten(2, (-1, tile))
    counts = (total[:, None, None] - tile * torch.arange(cut.shape[2], device=cut.device)).clamp(0, tile)
    cut = cut.masked_fill(~held(Tiles(cut, counts, cut)), 0.0)
    return Tiles(cut, counts, cut.sum(3) / counts.clamp(min=1)[..., None])


def held(tiles: Tiles) -> torch.Tensor:
    """[B, 1, tiles, tile, 1]: the places of a tile that hold a row."""
    return (torch.arange(tiles.rows.shape[3], device=tiles.rows.device) < tiles.counts[..., None])[..., None]


def each_head(tiles: Tiles, repeats: int) -> Tiles:
    """The tiles of the KV head that each query head reads."""
    return Tiles(tiles.rows.repeat_interleave(repeats, 1), tiles.counts, tiles.means.repeat_interleave(repeats, 1))


def logit_moments(centres: torch.Tensor, keys: Tiles) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the logits of the keys in a tile for the `centres` [B, H, query tiles, D] of tiles of scaled queries, each
    [B, H, query tiles, key tiles]."""
    counts = keys.counts[:, :, None].clamp(min=1)
    logits = torch.einsum("bhid,bhjtd->bhijt", centres, keys.rows)
    mean, square = logits.sum(-1) / counts, logits.square().sum(-1) / counts
    return mean, torch.maximum(square - mean.square(), FLOOR * square + torch.finfo(torch.float32).tiny)


def chosen_tiles(scores: torch.Tensor, budget: int | Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(tiles of the greatest scores [B, H, query tiles, greatest budget], which tiles are within the budget of their head
    [B, H, query tiles, key tiles]). Raises ValueError for a list of budgets that is not one a head."""
    heads, tiles = scores.shape[1], scores.shape[-1]
    budgets = [budget] * heads if isinstance(budget, int) else list(budget)
    if len(budgets) != heads or min(budgets) < 0:
        raise ValueError(f"Budgets are one for each of {heads} heads and none below zero, not {budgets}.")
    chosen = scores.topk(min(max(budgets), tiles), dim=-1).indices
    limits = torch.tensor(budgets, device=scores.device)[:, None, None]
    within = (torch.arange(chosen.shape[-1], device=scores.device) < limits).expand(chosen.shape)
    return chosen, torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, within)


def taken(tiles: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The `chosen` [B, H, I, b] of `tiles` [B, H or 1, J, tile, D], one behind the other: [B, H, I, b * tile, D]."""
    batch, heads, blocks, budget = chosen.shape
    index = chosen.flatten(2)[..., None, None].expand(-1, -1, -1, *tiles.shape[3:])
    gathered = tiles.expand(-1, heads, -1, -1, -1).gather(2, index)
    return gathered.reshape(batch, heads, blocks, budget * tiles.shape[3], tiles.shape[4])


def rows(vectors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """`vectors` [B, H, N, D] with row i taken from row order[..., i] of its head."""
    return vectors.gather(2, order[..., None].expand(-1, -1, -1, vectors.shape[-1]))
