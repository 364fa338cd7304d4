"""Spectral sparse attention on a GPU, in Triton: what `reference.py` says, forward and backward.

Six kernels and two calls of torch, none of which waits for the host, on shapes that the operands' shapes fix: assignment and counting
sort (`triton_order.py`), tiles (`triton_tiles.py`), scores and choice (`triton_scores.py`), one product for the pooled first-order
terms, attention (`triton_attend.py`). The gradients are exact but for the order and the choice (`triton_gradient.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from .triton_attend import Attended, attend
from .triton_gradient import Forward, gradients
from .triton_options import LEAST
from .triton_order import order_of
from .triton_scores import choose, moments
from .triton_tiles import key_tiles, query_centres
from .widths import MOST_WIDTH


class Options(NamedTuple):
    """What is the same for every call of a site: the scale of the logits, rows of a tile of queries and of keys, tiles by head."""

    scale: float
    tile: int
    key_tile: int
    budgets: tuple[int, ...]


def spectral_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    *,
    scale: float,
    tile: int,
    budget: int | Sequence[int],
    key_mask: torch.Tensor | None = None,
    key_tile: int | None = None,
) -> torch.Tensor:
    """`reference.spectral_attention` on a CUDA device of sm_80 or newer: queries, keys and values in one of float16, bfloat16 and float32,
    heads of up to 256 columns, 128 in float32. Differentiable in queries, keys and values.

    Logits, softmax and sums are float32; what is multiplied has the dtype of the operands, means of tiles and centres too, so that in
    half precision a tile whose score is all but equal to another's can be chosen in its place.
    Raises ValueError for operands that do not fit each other or the kernels.
    """
    heads = query.shape[1]
    budgets = (budget,) * heads if isinstance(budget, int) else tuple(budget)
    options = Options(scale, tile, key_tile or tile, budgets)
    _check(query, key, value, options)
    depth = value.shape[-1]
    operands = [whole_columns(x) for x in (query, key, value, query_codebook, key_codebook)]
    output: torch.Tensor = _SpectralAttention.apply(*operands, key_mask, options)
    return output[..., :depth]


def attended(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    key_mask: torch.Tensor | None,
    options: Options,
) -> tuple[Attended, Forward]:
    """The output with its log-sum-exp, not differentiable, and what the gradients need."""
    (batch, heads, _, width), (_, shared, length, _), depth = query.shape, key.shape, value.shape[-1]
    tile, size = options.tile, options.key_tile
    order, into = order_of(query, query_codebook), order_of(key, key_codebook, key_mask)
    if key_mask is None:
        totals = torch.full((batch,), length, dtype=torch.int32, device=query.device)
    else:
        totals = key_mask.sum(-1, dtype=torch.int32)
    tiles, centres = key_tiles(key, value, into, totals, size), query_centres(query, order, tile)
    mean, variance = moments(centres, tiles, size, options.scale)
    count, budgets = mean.shape[-1], on_device(options.budgets, query.device)
    choice = choose(mean, variance, totals, budgets, max(1, min(max(options.budgets), count)), size, query.dtype)
    first_order = choice.share.view(batch, shared, -1, count) @ tiles.slopes.flatten(3)
    first_order = first_order.view(batch, heads, -1, width, depth)
    found = attend(
        query, order, tiles, choice, first_order,
        scale=options.scale, query_tile=tile, tile=size, whole=key_mask is None and length % size == 0,
    )  # fmt: skip
    return found, Forward(order, into, tiles, centres, mean, variance, choice, first_order, found)


def whole_columns(x: torch.Tensor) -> torch.Tensor:
    """`x` with columns of zeros up to a multiple of 16, which change nothing but that rows load in whole words."""
    return pad(x, (0, -x.shape[-1] % LEAST)) if x.shape[-1] % LEAST else x


class _SpectralAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, query_codebook, key_codebook, key_mask, options):  # type: ignore[no-untyped-def]
        if not query.numel() or not key.numel():
            return query.new_zeros((*query.shape[:-1], value.shape[-1]))
        with torch.cuda.device_of(query):
            found, kept = attended(query, key, value, query_codebook, key_codebook, key_mask, options)
        # The output itself would lead back to this node, and stay until the garbage collector comes.
        kept = kept._replace(found=found._replace(output=found.output.detach()))
        ctx.operands, ctx.kept, ctx.options = (query, key, value), kept, options
        return found.output

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        with torch.cuda.device_of(gradient):
            options: Options = ctx.options
            query, key, value = ctx.operands
            found = gradients(query, key, value, gradient, ctx.kept, options.scale, options.tile, options.key_tile)
        return *found, None, None, None, None


@lru_cache(maxsize=256)
def on_device(budgets: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Budgets that went to the device once and stay: the copy would wait for the host in every call."""
    return torch.tensor(budgets, dtype=torch.int32, device=device)


def fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the kernels take these operands: on a CUDA device of sm_80 or newer, of one dtype and of no more columns than they hold."""
    alike = key.dtype == value.dtype == query.dtype
    small = max(query.shape[-1], value.shape[-1]) <= MOST_WIDTH.get(query.dtype, 0)
    return query.is_cuda and alike and small and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _check(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Options) -> None:
    heads, shared, budgets = query.shape[1], key.shape[1], options.budgets
    if heads % shared or value.shape[1] != shared:
        raise ValueError(f"{heads} query heads cannot share {shared} key heads and {value.shape[1]} value heads.")
    if len(budgets) != heads or min(budgets) < 0:
        raise ValueError(f"Budgets are one for each of {heads} heads and none below zero, not {list(budgets)}.")
    if query.dtype not in MOST_WIDTH or {key.dtype, value.dtype} != {query.dtype}:
        raise ValueError(
            f"The kernels take one of {list(MOST_WIDTH)} for all three, not {query.dtype}, {key.dtype} and {value.dtype}."
        )
    most = MOST_WIDTH[query.dtype]
    if max(query.shape[-1], value.shape[-1]) > most:
        raise ValueError(f"The kernels take heads of up to {most} columns, not {query.shape[-1]} and {value.shape[-1]}.")
