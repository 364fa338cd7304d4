"""What calibration fixes of a spectral attention before it runs: codebooks, tile and budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...cost_model.errors import InputError
from .codebook import calibrate
from .crossover import DENSITY, TILE, budget_for, leaves_for
from .reference import spectral_attention


@dataclass(frozen=True, eq=False)
class SparsePrepared:
    """Codebooks [H, leaves, D] float32, the `tile` length, the `budget` of exact tiles of keys for each tile of queries, and the logit's
    `scale`. It serves every length: `budget` tiles or fewer of keys come out exactly."""

    query_codebook: np.ndarray
    key_codebook: np.ndarray
    tile: int
    budget: int
    scale: float

    @property
    def heads(self) -> int:
        """H."""
        return self.query_codebook.shape[0]


def prepare(
    queries: np.ndarray, keys: np.ndarray, *, length: int, scale: float, tile: int = TILE, density: float = DENSITY
) -> SparsePrepared:
    """Codebooks from calibration `queries` and `keys` [H, M, D] (any M), and the budget that `density` asks for at `length` keys.

    Raises InputError where the arrays do not fit each other, or for a density outside (0, 1] or a tile below one.
    """
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[::2] != keys.shape[::2]:
        raise InputError(
            "Spectral attention is calibrated on queries and keys [heads, rows, width] of equal heads and width, "
            f"not {list(queries.shape)} and {list(keys.shape)}."
        )
    if not 0 < density <= 1 or tile < 1 or length < 1:
        raise InputError(
            f"Spectral attention needs a density in (0, 1], a tile and a length, not {density:g}, {tile} and {length}."
        )
    leaves = leaves_for(length, tile)
    query_codebook, key_codebook = (np.stack([calibrate(head, leaves) for head in found]) for found in (queries, keys))
    return SparsePrepared(query_codebook, key_codebook, tile, budget_for(length, tile, density), scale)


def simulate(prepared: SparsePrepared, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What the operator gives for query [B, H, N, D], key [B, H, S, D], value [B, H, S, Dv], float32: [B, H, N, Dv]."""
    return spectral_attention(
        query,
        key,
        value,
        torch.from_numpy(prepared.query_codebook),
        torch.from_numpy(prepared.key_codebook),
        scale=prepared.scale,
        tile=prepared.tile,
        budget=prepared.budget,
    )
