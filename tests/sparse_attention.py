"""Sequences with planted clusters, and attention sites, for the tests of spectral sparse attention."""

from dataclasses import replace

import numpy as np
import torch

from szilard.cost_model.sites import AttentionSite

SITE = AttentionSite(
    "softmax", ("softmax",), "q", "k", "v", "y", scale=32**-0.5, mask="", mask_kind="additive", causal=False, softcap=0.0, batch=1,
    heads=12, kv_heads=12, query_length=128, key_length=128, head_dim=32, key_transposed=False, dtype="float32", form="walk",
)  # fmt: skip


def site(length: int, **changes: object) -> AttentionSite:
    """An unmasked float32 site of 12 heads of 32, `length` queries and keys."""
    return replace(SITE, **{"query_length": length, "key_length": length, **changes})


def planted(
    seed: int, batch: int, heads: int, length: int, width: int, depth: int, clusters: int = 24, spread: float = 0.35
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys [batch, heads, length, width] and values [..., depth], float32, around `clusters` centres that all seeds of
    equal sizes share; which row belongs to which centre is drawn, and queries and keys are drawn apart."""
    fixed, random = np.random.default_rng(heads * width), np.random.default_rng(seed)
    centres = fixed.standard_normal((1, heads, clusters, width)) * 1.5
    values = fixed.standard_normal((1, heads, clusters, depth))
    found = []
    for _ in ("query", "key"):
        member = random.integers(0, clusters, (batch, heads, length))[..., None]
        noise = spread * random.standard_normal((batch, heads, length, width))
        found.append(np.take_along_axis(centres, member, axis=2) + noise)
    noise = spread * random.standard_normal((batch, heads, length, depth))
    found.append(np.take_along_axis(values, member, axis=2) + noise)
    query, key, value = (each.astype(np.float32) for each in found)
    return query, key, value


def operands(
    seed: int, batch: int, heads: tuple[int, int], queries: int, keys: int, width: int, depth: int, leaves: int,
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:  # fmt: skip
    """Normal query [batch, heads[0], queries, width], key and value of heads[1] heads, and float32 codebooks of queries and of keys."""
    random = torch.Generator().manual_seed(seed)
    shapes = (batch, heads[0], queries, width), (batch, heads[1], keys, width), (batch, heads[1], keys, depth)
    codebooks = [torch.randn((count, leaves, width), generator=random) for count in heads]
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes] + codebooks


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|, Frobenius."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def centroid_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    scale: float,
    tile: int,
    mask: torch.Tensor,
) -> np.ndarray:
    """What spectral attention is with a budget of none, query by query in float64: attention to the moments of tiles alone."""
    q, k, v, near, far = (x.double().numpy() for x in (query, key, value, query_codebook, key_codebook))
    output = np.zeros((*q.shape[:3], v.shape[-1]))
    for batch, head in np.ndindex(q.shape[:2]):
        shared = head * k.shape[1] // q.shape[1]
        kept = np.flatnonzero(mask[batch].numpy())
        order = kept[_by_leaf(k[batch, shared, kept], far[shared])]
        tiles = [order[start : start + tile] for start in range(0, len(order), tile)]
        by_leaf = _by_leaf(q[batch, head], near[head])
        for start in range(0, len(by_leaf), tile):
            members = by_leaf[start : start + tile]
            centre = scale * q[batch, head, members].mean(0)
            moments = [_moments(k[batch, shared, each], v[batch, shared, each], centre) for each in tiles]
            mean_keys, mean_values, slopes, masses = (np.stack(x) for x in zip(*moments, strict=True))
            at_centre = masses * np.exp(mean_keys @ centre)
            slope = np.tensordot(at_centre / at_centre.sum(), slopes, 1)
            for member in members:
                own = scale * q[batch, head, member]
                weights = masses * np.exp(mean_keys @ own)
                output[batch, head, member] = weights / weights.sum() @ mean_values + own @ slope
    return output


def _by_leaf(rows: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    return np.square(rows[:, None] - codebook).sum(-1).argmin(1).argsort(kind="stable")


def _moments(keys: np.ndarray, values: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean key, mean value, covariance of keys with values, and keys counted with the second order of their mass."""
    covariance = (keys - keys.mean(0)).T @ values / len(keys)
    return keys.mean(0), values.mean(0), covariance, len(keys) * (1 + (keys @ centre).var() / 2)
