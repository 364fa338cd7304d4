"""Sequences with planted clusters, and attention sites, for the tests of spectral sparse attention."""

from dataclasses import replace

import numpy as np

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
