"""Gradients of causal spectral attention on a GPU: a kernel for the queries (`triton_causal_backward.py`), that of
`triton_attend_backward.py` for keys, values and their means, and products in torch.

Exact but for two constants, as for every form of the operator: which keys are in a tile and which tiles are chosen change in steps.
"""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from torch.nn.functional import pad

from .causal import Layout
from .reference import NEVER
from .triton import on_device
from .triton_attend import Attended
from .triton_attend_backward import Rows, keys_backward
from .triton_causal_backward import queries_causal_backward
from .triton_causal_forward import Options, Planned, pooling
from .triton_causal_tiles import Tables
from .triton_options import LOG2E
from .triton_scores import Choice
from .triton_tiles import KeyTiles

UNSEEN = -1e20
"""The mass of a tile that no query of a tile of them sees: it weighs nothing, and is not taken for an exact one, whose mass is `NEVER`."""

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def causal_gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gradient: torch.Tensor,
    found: Attended,
    planned: Planned,
    options: Options,
) -> Gradients:
    """Gradients of `query`, `key` and `value`, in their dtypes, from that of the output [B, H, N, Dv]. It makes some tables of a number for
    each tile of queries and tile of keys: 33 MB each for 16 heads of 16384 tokens."""
    scale, budgets, layout = options
    (batch, heads, length, width), shared, size = query.shape, key.shape[1], layout.query_tile
    tables, centres = planned.tables, planned.centres * scale

    def cut(x: torch.Tensor) -> torch.Tensor:
        return pad(x, (0, 0, 0, -length % size)).view(batch, shared, heads // shared, -1, size, x.shape[-1])

    queries, changes, far, logsum = cut(query), cut(gradient), cut(found.far[..., None]), cut(found.logsum[..., None])
    delta = cut((found.output.float() * gradient.float()).sum(-1, keepdim=True))
    # The first-order term, (far share) * scale * q.H.
    moved = changes.float() @ planned.first_order.float().mT[:, :, None] * scale
    of_pooled = ((queries.float() * far * scale).mT @ changes.float()).sum(2)
    of_far = (moved * queries.float()).sum(-1)
    rows = Rows(
        *(x.reshape(batch, heads, -1, *x.shape[5:]) for x in (queries, changes)),
        *(x.reshape(batch, heads, -1) for x in (logsum, delta, of_far)),
    )

    limits = on_device(budgets, key.device)
    of_queries, of_variance, mass = queries_causal_backward(
        rows, tables, planned.choices, limits, layout, length, scale, UNSEEN
    )
    totals = torch.full((batch,), tables.keys.shape[2], dtype=torch.int32, device=key.device)
    tiles = KeyTiles(tables.keys, tables.values, totals, tables.key_means, tables.value_means, tables.slopes)
    mass = _with_dense(mass, limits, size // layout.key_tile)
    choice = Choice(totals, totals, mass, mass)
    of_keys, of_values = keys_backward(rows, tiles, choice, scale, size, layout.key_tile, far=False)
    of_key_means, of_value_means = keys_backward(
        rows, tiles, choice, scale, size, layout.key_tile, far=True, seeing=partial(_seeing, length, layout, key.device)
    )

    by_group = (batch, shared, -1, width)
    of_variance = of_variance.view(batch, shared, -1, of_variance.shape[-1])
    of_spreads = of_variance.mT @ centres.square().view(by_group)
    of_centres = 2 * scale * centres * (of_variance @ tables.spreads).view_as(centres)
    of_slopes = (pooling(length, layout, key.dtype, key.device).float().mT @ of_pooled.flatten(3)).unflatten(
        -1, of_pooled.shape[3:]
    )
    members = _members(tables, of_keys, of_values, of_key_means, of_value_means, of_spreads, of_slopes, layout)

    own_queries, own_keys, own_values = _own(queries, changes, tables, logsum, delta, scale)
    counts = (length - size * torch.arange(centres.shape[2], device=query.device)).clamp(max=size)
    of_queries = of_queries.view(queries.shape) + moved * far + own_queries
    of_queries = of_queries + (of_centres / counts[:, None]).view(batch, shared, -1, centres.shape[2], 1, width)
    of_query = of_queries.view(batch, heads, -1, width)[:, :, :length].to(query.dtype)
    of_key, of_value = (
        _put_back(each, own, tables.order, layout.sink, length).to(key.dtype)
        for each, own in zip(members, (own_keys, own_values), strict=True)
    )
    return of_query, of_key, of_value


def _with_dense(mass: torch.Tensor, limits: torch.Tensor, per: int) -> torch.Tensor:
    """The masses with those of tiles of queries whose budget holds all of the past: they read that as it stands, exactly."""
    usable = per * torch.arange(mass.shape[2], device=mass.device)
    past = torch.arange(mass.shape[3], device=mass.device) < usable[:, None]
    return mass.masked_fill((limits[:, None] >= usable)[..., None] & past, NEVER)


@lru_cache(maxsize=32)
def _seeing(length: int, layout: Layout, device: torch.device, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each `rows` rows of the tables the first tile of queries that sees one of them, and how many from there to the last one (int32).
    They go to the device once and stay: the copy would wait for the host in every call."""
    usable = layout.usable(length)
    seen = pad(usable, (0, -usable.shape[1] % rows)).unflatten(1, (-1, rows)).any(-1).int()
    first, behind = seen.argmax(0), len(seen) - seen.flip(0).argmax(0)
    return first.int().to(device), ((behind - first) * seen.amax(0)).int().to(device)


def _own(
    queries: torch.Tensor, changes: torch.Tensor, tables: Tables, logsum: torch.Tensor, delta: torch.Tensor, scale: float
) -> Gradients:
    """What each tile of queries has from its own keys, and these from it: as `queries` [B, Hkv, group, I, tile, D], and by position."""
    blocks, size = queries.shape[3:5]
    queries, changes = queries.float(), changes.float()
    key, value = (x[:, :, : blocks * size].float().unflatten(2, (1, blocks, size)) for x in (tables.keys, tables.values))
    behind = torch.ones(size, size, dtype=torch.bool, device=key.device).triu(1)
    weights = torch.exp2(queries @ key.mT * (scale * LOG2E) - logsum).masked_fill(behind, 0.0)
    slopes = weights * (changes @ value.mT - delta) * scale
    of_keys, of_values = (x.sum(2).flatten(2, 3) for x in (slopes.mT @ queries, weights.mT @ changes))
    return slopes @ key, of_keys, of_values


def _members(
    tables: Tables,
    of_keys: torch.Tensor,
    of_values: torch.Tensor,
    of_key_means: torch.Tensor,
    of_value_means: torch.Tensor,
    of_spreads: torch.Tensor,
    of_slopes: torch.Tensor,
    layout: Layout,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the rows of the tables from those of what was made of them: a mean shares its gradient among its rows, a variance gives
    2 (k - k_j) / n, and the mean of (k - k_j)^T v over a piece (v - v_j) dH^T and (k - k_j) dH, over its rows."""
    size, count = layout.query_tile, layout.key_tile
    keys, values = (x.float().unflatten(2, (-1, count)) for x in (tables.keys, tables.values))
    keys, values = keys - keys.mean(3, keepdim=True), values - values.mean(3, keepdim=True)
    more = 2 * keys * of_spreads[..., None, :] + of_key_means[..., None, :], of_value_means[..., None, :].expand(values.shape)
    of_keys, of_values = (x + y.flatten(2, 3) / count for x, y in zip((of_keys, of_values), more, strict=True))
    keys, values = (x.flatten(2, 3).unflatten(2, (-1, size)) for x in (keys, values))
    return of_keys + (values @ of_slopes.mT / size).flatten(2, 3), of_values + (keys @ of_slopes / size).flatten(2, 3)


def _put_back(members: torch.Tensor, own: torch.Tensor, order: torch.Tensor, sink: int, length: int) -> torch.Tensor:
    """Gradients by position [B, Hkv, N, D]: of a row in its tile of neighbours, in its tile by content, and in the tile of its queries."""
    found = members[:, :, : own.shape[2]] + own
    if order.shape[-1]:
        moved, places = members[:, :, own.shape[2] :], (order.long() - sink)[..., None]
        found[:, :, sink : sink + order.shape[-1]] += torch.empty_like(moved).scatter_(2, places.expand_as(moved), moved)
    return found[:, :, :length]
