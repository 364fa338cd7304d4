"""Causal spectral attention in plain torch, written as its mathematics: what every faster form of it is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from .reference import chosen_tiles
from .reference import taken as taken_tiles

DENSE = 1 << 30
"""A budget that holds all tiles of any text."""
POWER_STEPS = 3
"""Steps of the power iteration: the direction need only be long, not exact."""


@dataclass(frozen=True)
class Layout:
    """How a sequence is cut, in positions: queries into tiles of `query_tile`, keys into tiles of `key_tile`. The first `sink` keys, which
    every query looks at, stay in tiles of neighbours; behind them, each `segment` that lies wholly in the past is cut by content.

    Every size divides the next, `segment` / `key_tile` is a power of two, and `sink` is whole query tiles. Raises ValueError otherwise.
    Segments of 512 or 1,024 and tiles of 32 left 1.5 to 3 times the error (trained SmolLM2 heads, N = 2048).
    """

    query_tile: int = 64
    key_tile: int = 16
    segment: int = 256
    sink: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        tiles = self.segment // self.key_tile
        if (
            self.query_tile % self.key_tile
            or self.segment % self.query_tile
            or self.sink % self.query_tile
            or tiles & (tiles - 1)
        ):
            raise ValueError(f"The sizes of {self} do not divide each other.")

    def segments(self, length: int) -> int:
        """Segments that lie wholly before the last tile of queries, one tile of keys or more away from it."""
        last = (-(-length // self.query_tile) - 1) * self.query_tile
        return max(0, (last - self.sink - self.key_tile) // self.segment)

    @property
    def front(self) -> int:
        """Rows in front of the first query that put the queries which see the same segments closed into one step of a segment's length."""
        tiles = -(self.sink + self.segment + self.key_tile) // self.query_tile
        return self.query_tile * (tiles % (self.segment // self.query_tile))

    def steps(self, length: int) -> int:
        """Such steps."""
        return -(-(length + self.front) // self.segment)

    def tiles(self, length: int) -> int:
        """Tiles of keys: those of neighbours, and behind them those of each segment."""
        return -(-length // self.query_tile) * (self.query_tile // self.key_tile) + self.segments(length) * (
            self.segment // self.key_tile
        )

    def usable(self, length: int) -> torch.Tensor:
        """[query tiles, key tiles]: where every key of the tile lies before every query, and no other usable tile holds it.

        A segment is closed to a tile of queries that starts a key tile or more behind its end: then its keys are read in their tiles by
        content, and before that in their tiles of neighbours.
        """
        blocks, per = -(-length // self.query_tile), self.segment // self.key_tile
        start = torch.arange(blocks)[:, None] * self.query_tile
        ends = self.sink + self.segment * (torch.arange(self.segments(length)) + 1)
        closed = start >= ends + self.key_tile
        place = torch.arange(blocks * self.query_tile // self.key_tile) * self.key_tile
        inside = (place >= self.sink) & (place < self.sink + self.segment * closed.sum(-1, keepdim=True))
        return torch.cat([(place + self.key_tile <= start) & ~inside, closed.repeat_interleave(per, -1)], dim=-1)

    def forced(self, length: int) -> torch.Tensor:
        """[query tiles, key tiles]: the usable tiles that are always exact, the first one and the one just before the queries."""
        place = torch.arange(self.tiles(length)) * self.key_tile
        start = torch.arange(-(-length // self.query_tile))[:, None] * self.query_tile
        return ((place == 0) | (place + self.key_tile == start)) & self.usable(length)


LAYOUT = Layout()


def causal_spectral_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    budget: int | Sequence[int],
    layout: Layout = LAYOUT,
    key_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal softmax(scale q k^T) v with most past keys replaced by the moments of their tiles: [B, H, N, Dv] in the query's dtype.

    `query` [B, H, N, D], `key` [B, Hkv, N, D], `value` [B, Hkv, N, Dv], any float dtype, computed in float32; query head h reads KV head
    h // (H / Hkv). Any N. With c the mean of a tile of scaled queries q, k_j and v_j the means of a tile of n keys, s2_j the variance of
    its keys in each dimension and var = c^2.s2_j, the queries attend exactly to the keys of their own tile, each up to itself, and to the
    `budget` tiles (one number, or one a query head) of greatest c.k_j + log var, what their centroids would lose; the first tile and the
    one just before the queries come before all others. Every other tile wholly in the past is one more column of
        logit  q.k_j + log n + log(1 + var / 2): the second-order mass of the tile,
        value  v_j + q.H,  H the mean over the past's tiles of H_j = mean (k - k_j)^T v: the first-order term, pooled.
    One softmax runs over all columns. A budget of all tiles is dense causal attention; a constant v comes back.

    Relative error of trained SmolLM2 heads at a budget of 8 and N = 3072: 0.128; choosing by the mass of each query instead of the mean
    query 0.129, with the variance of c.k itself 0.133, without the first-order term 0.149.

    `key_mask` [B, N] is True where a token counts: the others are moved behind them, where no token that counts looks, and what they give
    themselves is not defined (but finite).

    No output depends on a key or a value behind its query. Which tiles are exact is one choice for a tile of queries, made by their mean,
    and so depends on queries up to `query_tile` - 1 behind. Raises ValueError where the heads or lengths do not fit each other.
    """
    if key_mask is not None:
        order = padding_last(key_mask)[:, None]
        moved = (taken(x, order.expand(-1, x.shape[1], -1)) for x in (query, key, value))
        output = causal_spectral_attention(*moved, scale=scale, budget=budget, layout=layout)
        return taken(output, order.argsort(dim=-1).expand(-1, query.shape[1], -1))
    length = query.shape[2]
    if value.shape[1] != key.shape[1] or value.shape[2] != length:
        raise ValueError(f"Queries {list(query.shape)} cannot attend causally to {list(key.shape)} and {list(value.shape)}.")
    found = causal_weights(query, key, scale=scale, budget=budget, layout=layout)
    repeats = query.shape[1] // key.shape[1]
    values = pad(value.float(), (0, 0, 0, -length % layout.query_tile)).repeat_interleave(repeats, 1)
    tile_values = taken(values, found.members)
    usable = layout.usable(length).to(query.device)
    first_order = usable.float() @ (found.centred.transpose(-1, -2) @ tile_values / layout.key_tile).flatten(3)
    first_order = (first_order / usable.sum(-1, keepdim=True).clamp(min=1)).unflatten(-1, (query.shape[-1], -1))
    output = found.own @ values.unflatten(2, (-1, layout.query_tile))
    output = output + found.near @ taken_tiles(tile_values, found.chosen) + found.far @ tile_values.mean(3)[:, :, None]
    output = output + found.far.sum(-1, keepdim=True) * (found.queries @ first_order)
    return output.flatten(2, 3)[:, :, :length].to(query.dtype)


class Weights(NamedTuple):
    """What each query reads, of I tiles of queries with q rows each and J tiles of keys with k: its softmax weights on the keys of its own
    tile [B, H, I, q, q], on those of the tiles `chosen` [B, H, I, b] for its tile `near` [B, H, I, q, b k], and on whole tiles `far`
    [B, H, I, q, J]; the positions of their keys `members` [B, H, J, k]. Then the scaled `queries` [B, H, I, q, D], the keys less the mean
    of their tile `centred` [B, H, J, k, D]."""

    own: torch.Tensor
    near: torch.Tensor
    far: torch.Tensor
    chosen: torch.Tensor
    members: torch.Tensor
    queries: torch.Tensor
    centred: torch.Tensor


def causal_weights(
    query: torch.Tensor, key: torch.Tensor, *, scale: float, budget: int | Sequence[int], layout: Layout = LAYOUT
) -> Weights:
    """The first half of `causal_spectral_attention`, with its arguments and errors."""
    heads, shared, length = query.shape[1], key.shape[1], query.shape[2]
    if heads % shared or key.shape[2] != length:
        raise ValueError(f"Queries {list(query.shape)} cannot attend causally to {list(key.shape)}.")
    size, count = layout.query_tile, layout.key_tile
    queries, keys = (pad(x.float(), (0, 0, 0, -length % size)) for x in (query, key))
    queries = queries * scale
    members = key_tiles(keys, layout, length)
    keys, members = (x.repeat_interleave(heads // shared, 1) for x in (keys, members))
    queries, own_keys = (x.unflatten(2, (-1, size)) for x in (queries, keys))
    usable, forced = layout.usable(length).to(query.device), layout.forced(length).to(query.device)
    tile_keys = taken(keys, members)
    means = tile_keys.mean(3)
    centred = tile_keys - means[..., None, :]

    centres = queries.sum(3) / (length - size * torch.arange(queries.shape[2], device=query.device)).clamp(max=size)[:, None]
    variance = centres.square() @ centred.square().mean(3).transpose(-1, -2)
    score = centres @ means.transpose(-1, -2) + variance.clamp(min=torch.finfo(variance.dtype).tiny).log()
    score = score.masked_fill(forced, torch.inf).masked_fill(~usable, -torch.inf)
    chosen, exact = chosen_tiles(score, budget)
    bias = (log(count) + (variance / 2).log1p()).masked_fill(exact | ~usable, -torch.inf)

    behind = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    own = (queries @ own_keys.transpose(-1, -2)).masked_fill(behind, -torch.inf)
    unread = ~(exact & usable).gather(-1, chosen).repeat_interleave(count, -1)
    near = (queries @ taken_tiles(tile_keys, chosen).transpose(-1, -2)).masked_fill(unread[..., None, :], -torch.inf)
    far = queries @ means[:, :, None].transpose(-1, -2) + bias[..., None, :]
    weights = torch.cat([own, near, far], dim=-1).softmax(-1)
    own, near, far = weights.split([size, near.shape[-1], far.shape[-1]], dim=-1)
    return Weights(own, near, far, chosen, members, queries, centred)


def padding_last(key_mask: torch.Tensor) -> torch.Tensor:
    """The order [B, N] that moves the tokens where `key_mask` [B, N] is False behind the others, each in the order it has."""
    return (~key_mask).long().argsort(dim=-1, stable=True)


def key_tiles(keys: torch.Tensor, layout: Layout, length: int) -> torch.Tensor:
    """Positions [B, Hkv, tiles, key_tile] of the keys in each tile, for `keys` [B, Hkv, N, D] padded to whole query tiles."""
    neighbours = (
        torch.arange(keys.shape[2], device=keys.device).expand(*keys.shape[:2], -1).unflatten(-1, (-1, layout.key_tile))
    )
    segments = layout.segments(length)
    order = torch.arange(segments * layout.segment, device=keys.device).expand(*keys.shape[:2], -1) + layout.sink
    order = order.unflatten(-1, (segments, layout.segment))
    while order.shape[-1] > layout.key_tile:
        along = (taken(keys, order) @ principal_direction(taken(keys, order))[..., None]).squeeze(-1)
        order = order.gather(-1, along.argsort(dim=-1, stable=True)).unflatten(-1, (2, -1)).flatten(2, 3)
    return torch.cat([neighbours, order], dim=2)


def principal_direction(rows: torch.Tensor) -> torch.Tensor:
    """The leading principal direction [..., D] of `rows` [..., M, D], started from the axis of largest variance; of any length."""
    centred = rows - rows.mean(-2, keepdim=True)
    covariance = centred.transpose(-1, -2) @ centred
    widest = covariance.diagonal(dim1=-2, dim2=-1).argmax(-1)
    direction = covariance.gather(-1, widest[..., None, None].expand(*covariance.shape[:-1], 1))
    for _ in range(POWER_STEPS):
        length = direction.norm(dim=-2, keepdim=True).clamp(min=torch.finfo(direction.dtype).tiny)
        direction = covariance @ (direction / length)
    return direction.squeeze(-1)


def taken(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`rows` [B, H, N, D] at `places` [B, H, ...]: [B, H, ..., D]."""
    index = places.flatten(2)[..., None].expand(-1, -1, -1, rows.shape[-1])
    return rows.gather(2, index).unflatten(2, places.shape[2:])
