"""What calibration fixes of a spectral attention before it runs: codebooks, tiles and the budget of each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ...cost_model.errors import InputError
from .codebook import calibrate
from .reference import spectral_attention
from .tiling import DENSITY, TILE, budget_for, leaves_for, tiles_for

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query [B, H, N, D], key [B, Hkv, S, D], value [B, Hkv, S, Dv]."""


@dataclass(frozen=True, eq=False)
class SparsePrepared:
    """Codebooks [H, leaves, D] of queries and [Hkv, leaves, D] of keys, float32, the `tile` of queries, the `budget` of exact tiles of
    keys for each of them (one number, or one a head), the logit's `scale`, and the tile of keys (None: the same as that of queries).
    It serves every length: `budget` tiles or fewer of keys come out exactly, and fewer than `dense_below` keys are dense attention where a
    runtime can choose. `errors`: of each head, relative, by which its budget was fitted. `on_cuda`: torch runs it by Triton kernels."""

    query_codebook: np.ndarray
    key_codebook: np.ndarray
    tile: int
    budget: int | tuple[int, ...]
    scale: float
    key_tile: int | None = None
    errors: tuple[float, ...] = ()
    dense_below: int = 0
    on_cuda: bool = False

    @property
    def heads(self) -> int:
        """H."""
        return self.query_codebook.shape[0]

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; head h of the queries reads h // (heads / kv_heads)."""
        return self.key_codebook.shape[0]

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budget of each head."""
        return (self.budget,) * self.heads if isinstance(self.budget, int) else self.budget


def prepare(
    queries: np.ndarray,
    keys: np.ndarray,
    *,
    length: int,
    scale: float,
    tile: int = TILE,
    density: float = DENSITY,
    key_tile: int | None = None,
) -> SparsePrepared:
    """Codebooks from calibration `queries` [H, M, D] and `keys` [Hkv, M, D] (any M), and the budget that `density` asks for at `length`
    keys, for every head alike (`fit_budgets` tells them apart).

    Raises InputError where the arrays do not fit each other, or for a density outside (0, 1] or a tile below one.
    """
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[2] != keys.shape[2] or len(queries) % len(keys):
        raise InputError(
            "Spectral attention is calibrated on queries and keys [heads, rows, width] of equal width, each head of keys for as many of "
            f"queries, not {list(queries.shape)} and {list(keys.shape)}."
        )
    of_keys = tile if key_tile is None else key_tile
    if not 0 < density <= 1 or min(tile, of_keys, length) < 1:
        raise InputError(
            f"Spectral attention needs a density in (0, 1], a tile and a length, not {density:g}, {min(tile, of_keys)} and {length}."
        )
    query_codebook, key_codebook = (
        np.stack([calibrate(head, leaves_for(length, rows)) for head in found])
        for found, rows in ((queries, tile), (keys, of_keys))
    )
    return SparsePrepared(query_codebook, key_codebook, tile, budget_for(length, of_keys, density), scale, key_tile)


def fit_budgets(prepared: SparsePrepared, samples: Sequence[Operands], tolerance: float) -> SparsePrepared:
    """`prepared` with the smallest budget of each head whose relative output error, a mean over `samples`, is within `tolerance`.

    Budgets are tried in doubling steps and then by bisection, as the error falls with the budget; a head that misses with less has all
    tiles of the longest sample, which is dense attention. The worst heads carry most of a model's loss, which a mean over heads hides.
    Raises InputError for no samples or a tolerance below zero.
    """
    if not samples or tolerance < 0:
        raise InputError("Budgets are fitted to at least one sample and a tolerance of zero or more.")
    tiles = max(tiles_for(key.shape[2], prepared.key_tile or prepared.tile) for _, key, _ in samples)
    wanted = [scaled_dot_product_attention(*sample, scale=prepared.scale, enable_gqa=True) for sample in samples]

    def errors_of(budgets: np.ndarray) -> np.ndarray:
        made = replace(prepared, budget=tuple(map(int, budgets)))
        found = [relative_errors(simulate(made, *sample), dense).numpy() for sample, dense in zip(samples, wanted, strict=True)]
        return np.mean(found, axis=0)

    low, high = np.full(prepared.heads, -1), np.zeros(prepared.heads, int)
    while (growing := ((errors := errors_of(high)) > tolerance) & (high < tiles)).any():
        low = np.where(growing, high, low)
        high = np.where(growing, np.minimum(np.maximum(2 * high, 1), tiles), high)
    while (open_ := high - low > 1).any():
        middle = np.where(open_, (low + high) // 2, high)
        found = errors_of(middle)
        missed, kept = open_ & (found > tolerance), open_ & (found <= tolerance)
        low, high, errors = np.where(missed, middle, low), np.where(kept, middle, high), np.where(kept, found, errors)
    return replace(prepared, budget=tuple(map(int, high)), errors=tuple(map(float, errors)))


def simulate(
    prepared: SparsePrepared, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """What the operator gives for query [B, H, N, D], key [B, Hkv, S, D], value [B, Hkv, S, Dv] and mask [B, S]: [B, H, N, Dv]."""
    return spectral_attention(
        query,
        key,
        value,
        torch.from_numpy(prepared.query_codebook),
        torch.from_numpy(prepared.key_codebook),
        scale=prepared.scale,
        tile=prepared.tile,
        budget=prepared.budget,
        key_mask=mask,
        key_tile=prepared.key_tile,
    )


def relative_errors(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """|found - wanted| / |wanted| of each head [H], Frobenius, for outputs [B, H, N, Dv]."""
    distance, size = (x.double().square().sum(dim=(0, 2, 3)) for x in (found - wanted, wanted))
    return (distance / size.clamp(min=torch.finfo(torch.float64).tiny)).sqrt().float()
