"""Gradients of spectral attention on a GPU: the kernels of `triton_attend_backward.py`, and products of what they leave in torch.

Exact but for two constants, as for every form of the operator: the order of the rows and the choice of tiles change in steps. Masses,
means and the pooled first-order term are differentiated. (The gradient of the variance's floor, a millionth of one, is left out.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from .reference import rows as rows_by
from .triton_attend import Attended
from .triton_attend_backward import Rows, keys_backward, queries_backward
from .triton_scores import Choice
from .triton_tiles import KeyTiles, tiles_backward


class Forward(NamedTuple):
    """What the forward pass leaves: the orders of queries [B, H, N] and of keys [B, Hkv, S], tiles of keys, centres of tiles of queries
    [B, H, I, D], moments [B, H, I, J], the choice, the pooled first-order terms [B, H, I, D, Dv], and what was found."""

    order: torch.Tensor
    into: torch.Tensor
    tiles: KeyTiles
    centres: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    choice: Choice
    first_order: torch.Tensor
    found: Attended


def gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gradient: torch.Tensor,
    kept: Forward,
    scale: float,
    tile: int,
    key_tile: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `query`, `key` and `value`, in their dtypes, from that of the output [B, H, N, Dv]."""
    batch, heads, length, width = query.shape
    shared, depth, blocks = key.shape[1], value.shape[-1], kept.mean.shape[2]
    tiles, choice = kept.tiles, kept.choice
    order = kept.order.long()

    def cut(x: torch.Tensor) -> torch.Tensor:
        return pad(rows_by(x, order), (0, 0, 0, -length % tile)).view(batch, heads, blocks, tile, x.shape[-1])

    # The first-order term, (far share) * scale * q.H.
    queries, changes, far = cut(query), cut(gradient), cut(kept.found.far[..., None])
    moved, slopes = changes.float() @ kept.first_order.float().mT * scale, queries.float() * far * scale
    of_far = (moved * queries.float()).sum(-1)
    of_pooled = (slopes.mT @ changes.float()).view(batch, shared, -1, width * depth)
    delta = cut((kept.found.output.float() * gradient.float()).sum(-1, keepdim=True)).contiguous()
    logsum = cut(kept.found.logsum[..., None]).contiguous()
    rows = Rows(queries.flatten(2, 3), changes.flatten(2, 3), logsum, delta, of_far)

    of_queries, of_mass = queries_backward(rows, tiles, choice, scale, tile, key_tile)
    of_keys, of_values = keys_backward(rows, tiles, choice, scale, tile, key_tile, far=False)
    of_key_means, of_value_means = keys_backward(rows, tiles, choice, scale, tile, key_tile, far=True)

    # H of a tile of queries is the mean of all H_j, weighted by their shares; shares and masses go back to the moments.
    share, tile_slopes = choice.share.float().view(batch, shared, -1, kept.mean.shape[-1]), tiles.slopes.float().flatten(3)
    of_slopes = (share.mT @ of_pooled).unflatten(-1, (width, depth))
    of_share = of_pooled @ tile_slopes.mT
    of_mean = (share * (of_share - (share * of_share).sum(-1, keepdim=True))).view_as(kept.mean)
    of_variance = (of_mass + of_mean) / (2 + kept.variance)
    of_centres, more = moments_backward(kept, of_mean, of_variance, scale, key_tile)

    of_keys, of_values = tiles_backward(tiles, key_tile, of_keys + more, of_values, of_key_means, of_value_means, of_slopes)
    held = (torch.arange(blocks * tile, device=query.device) < length).view(blocks, tile, 1)
    of_queries = of_queries.view_as(queries) + moved * far + of_centres[..., None, :] / held.sum(1, keepdim=True)
    found = (of_queries.flatten(2, 3), query, order), (of_keys, key, kept.into.long()), (of_values, value, kept.into.long())
    of_query, of_key, of_value = (_put_back(*each) for each in found)
    return of_query, of_key, of_value


def moments_backward(
    kept: Forward, of_mean: torch.Tensor, of_variance: torch.Tensor, scale: float, tile: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the centres [B, H, I, D] and of the sorted keys [B, Hkv, J * tile, D] from those of mean and variance of their logits:
    with the covariance S_j of the keys of a tile, var = scale^2 c.S_j c."""
    tiles, shape = kept.tiles, kept.centres.shape
    batch, shared, count, width = tiles.key_means.shape
    places = torch.arange(count * tile, device=of_mean.device).view(count, tile)
    held = (places < tiles.totals[:, None, None, None])[..., None]
    members = held.sum(-2).clamp(min=1)
    means = tiles.key_means.float()
    keys = (tiles.keys.float().view(batch, shared, count, tile, width) - means[..., None, :]) * held
    centres, of_mean, of_variance = (
        x.float().reshape(batch, shared, -1, x.shape[-1]) for x in (kept.centres, of_mean, of_variance)
    )
    covariance = (keys.mT @ keys / members[..., None]).flatten(3)
    pooled = (of_variance @ covariance).unflatten(-1, (width, width))
    of_centres = scale * (of_mean @ means) + 2 * scale**2 * (pooled @ centres[..., None]).squeeze(-1)
    outer = (centres[..., None] * centres[..., None, :]).flatten(3)
    pooled = (of_variance.mT @ outer).unflatten(-1, (width, width))
    of_keys = 2 * scale**2 * keys @ pooled + scale * (of_mean.mT @ centres)[..., None, :]
    return of_centres.view(shape), (of_keys * held / members[..., None]).flatten(2, 3)


def _put_back(gradient: torch.Tensor, operand: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The sorted `gradient` in the order and the dtype of its operand."""
    places = order[..., None].expand(operand.shape)
    return torch.empty_like(operand).scatter_(2, places, gradient[:, :, : operand.shape[2]].to(operand.dtype))
