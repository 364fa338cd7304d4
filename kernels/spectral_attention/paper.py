"""Spectral sparse attention as the source prints it (Algorithm 2): kept to compare with, not offered to any plan."""

from __future__ import annotations

import math

import torch


def paper_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    clusters: int,
    samples: int,
    seed: int = 0,
    projected: int | None = None,
    iterations: int = 10,
) -> torch.Tensor:
    """Algorithm 2 on one length N: `query`, `key` [B, H, N, D], `value` [B, H, N, Dv] -> [B, H, N, Dv].

    Queries, projected at random to `projected` columns (default min(D, 64)), are put into `clusters` by k-means; key j is in the cluster of
    *query* j. Each query attends to the keys of its cluster and to `samples` others drawn uniformly (all others if there are fewer),
    unweighted; the rest are dropped. The edges are a dense mask here: N^2 work, which is what a comparison of errors needs.
    Deterministic for a `seed`. Raises ValueError where queries and keys differ in length.
    """
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"Algorithm 2 clusters as many queries as keys, not {query.shape[2]} and {key.shape[2]}.")
    generator = torch.Generator().manual_seed(seed)
    width = projected or min(query.shape[3], 64)
    projection = torch.randn(query.shape[3], width, generator=generator) / math.sqrt(width)
    cluster = k_means(query @ projection, clusters, iterations)
    local = cluster[..., :, None] == cluster[..., None, :]
    drawn = torch.rand(local.shape, generator=generator).masked_fill(local, -1.0)
    nearest = drawn.topk(min(samples, drawn.shape[-1]), dim=-1)
    sampled = torch.zeros_like(local).scatter(-1, nearest.indices, nearest.values >= 0)
    logits = (scale * query @ key.transpose(-1, -2)).masked_fill(~(local | sampled), -torch.inf)
    return logits.softmax(dim=-1) @ value


def k_means(points: torch.Tensor, clusters: int, iterations: int) -> torch.Tensor:
    """Cluster of each of `points` [B, H, N, D] as [B, H, N], by Lloyd's steps from points spread evenly over the sequence; a cluster that
    falls empty keeps its centre."""
    spread = torch.linspace(0, points.shape[2] - 1, clusters).round().long()
    centres = points[:, :, spread]
    for _ in range(iterations):
        member = torch.nn.functional.one_hot(torch.cdist(points, centres).argmin(-1), clusters).to(points.dtype)
        sizes = member.sum(2)[..., None]
        centres = torch.where(sizes > 0, member.transpose(-1, -2) @ points / sizes.clamp(min=1), centres)
    return torch.cdist(points, centres).argmin(-1)
