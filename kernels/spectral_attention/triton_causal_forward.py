"""The forward pass of causal spectral attention on a GPU: tables of tiles (`triton_causal_tiles.py`), scores and choice
(`triton_causal_scores.py`), one product in torch for the pooled first-order terms, attention (`triton_causal_attend.py`)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton

from .causal import Layout
from .triton import on_device
from .triton_attend import Attended
from .triton_causal_attend import attend_causal
from .triton_causal_scores import CausalChoice, choose_slots
from .triton_causal_tiles import Tables, tables_of
from .triton_tiles import query_centres

WORKSPACE = 1 << 29
"""Bytes of scores and masses that are there at a time, unless one tile of queries has more: 16 heads of 32768 tokens take one pass."""


class Options(NamedTuple):
    """What is the same for every call of a site: the scale of the logits, tiles by query head, the layout."""

    scale: float
    budgets: tuple[int, ...]
    layout: Layout


class Planned(NamedTuple):
    """What is fixed before any query is looked at alone: the tables of tiles, the `centres` of tiles of queries [B, H, I, D] (float32), the
    pooled `first_order` [B, Hkv, I, D, Dv], and the choices of all ranges of tiles of queries where gradients are asked for."""

    tables: Tables
    centres: torch.Tensor
    first_order: torch.Tensor
    choices: list[CausalChoice]


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Options, *, keep: bool
) -> tuple[Attended, Planned]:
    """The output with its log-sum-exp, not differentiable, and what it was planned by, with all choices if `keep`: for the gradients."""
    batch, heads, length, _ = query.shape
    scale, budgets, layout = options
    query = query if query.stride(-1) == 1 else query.contiguous()
    tables, centres = tables_of(key, value, layout), query_centres(query, None, layout.query_tile, torch.float32)
    shares = pooling(length, layout, key.dtype, key.device)
    first_order = (shares @ tables.slopes.flatten(3)).unflatten(-1, tables.slopes.shape[3:])
    found = Attended(
        torch.empty((batch, heads, length, value.shape[-1]), dtype=query.dtype, device=query.device),
        *(torch.empty((batch, heads, length), dtype=torch.float32, device=query.device) for _ in range(2)),
    )
    on_card, choices = on_device(budgets, query.device), []
    for first, count in ranges(batch * heads, length, layout):
        slots = (first + count - 1) * (layout.query_tile // layout.key_tile)
        most = max((max(1, each) for each in budgets if each < slots), default=0)
        choice = choose_slots(centres, tables, on_card, most, layout, length, scale, first, count)
        attend_causal(query, tables, choice, on_card, first_order, layout, scale, found)
        if keep:
            choices.append(choice)
    return found, Planned(tables, centres, first_order, choices)


@lru_cache(maxsize=256)
def ranges(heads: int, length: int, layout: Layout) -> list[tuple[int, int]]:
    """(first tile of queries, how many) of each pass over `heads` heads of a text: as many as the workspace holds, one at least."""
    step, blocks = layout.query_tile // layout.key_tile, triton.cdiv(length, layout.query_tile)
    found, first = [], 0
    while first < blocks:
        count = 1
        while first + count < blocks and 8 * heads * (count + 1) * step * (first + count) <= WORKSPACE:
            count += 1
        found.append((first, count))
        first += count
    return found


@lru_cache(maxsize=16)
def pooling(length: int, layout: Layout, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[I, pieces]: the share of each piece of the tables in the mean of H_j over the past of a tile of queries. It stays on the device."""
    per = layout.query_tile // layout.key_tile
    usable = layout.usable(length)[:, ::per].float()
    return (usable / usable.sum(-1, keepdim=True).clamp(min=1)).to(dtype).to(device)
