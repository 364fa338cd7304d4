"""Where spectral attention begins to pay: the length from which its modelled joules lie below those of dense attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, log2

from ...cost_model.cost import Cost
from ...cost_model.counts import Counts
from ...cost_model.counts_flops import WEIGHT
from ...cost_model.counts_traffic import item_bytes
from ...cost_model.device import Device
from ...cost_model.net import Net
from ...cost_model.price import price_counts
from ...cost_model.sites import AttentionSite

TILE = 64
DENSITY = 0.12
LONGEST = 1 << 20
INDEX = 8.0
"""Bytes of an index: ONNX and torch have 64-bit ones."""


def tiles_for(length: int, tile: int) -> int:
    """Tiles that `length` rows fill, the last one maybe in part."""
    return ceil(length / tile)


def budget_for(length: int, tile: int, density: float) -> int:
    """Tiles of keys that a tile of queries attends to exactly: that share of them, at least one."""
    return max(1, ceil(density * tiles_for(length, tile) - 1e-9))


def leaves_for(length: int, tile: int) -> int:
    """Leaves of a codebook: the power of two next above the number of tiles, so that few leaves straddle two tiles."""
    return 1 << max(0, ceil(log2(tiles_for(length, tile))))
