"""`torch.ops.szilard.spectral_attention`: the operator as torch knows operators, with a fake for tracing and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import torch

from .torch_module import SpectralAttention


@torch.library.custom_op("szilard::spectral_attention", mutates_args=())
def spectral_attention_op(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    key_mask: torch.Tensor | None,
    scale: float,
    tile: int,
    key_tile: int,
    budgets: Sequence[int],
) -> torch.Tensor:
    """`reference.spectral_attention` with a budget for each head and both tiles given: on CUDA by the kernels of `triton.py`, elsewhere and
    for what these do not take by plain torch."""
    return _attention(query, key, value, query_codebook, key_codebook, key_mask, scale, (tile, key_tile), list(budgets))


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
    """The registered operator with the arguments of `reference.spectral_attention`, which it equals to rounding."""
    budgets = [budget] * query.shape[1] if isinstance(budget, int) else list(budget)
    return spectral_attention_op(
        query, key, value, query_codebook, key_codebook, key_mask, scale, tile, key_tile or tile, budgets
    )


@spectral_attention_op.register_fake
def _(query, key, value, query_codebook, key_codebook, key_mask, scale, tile, key_tile, budgets):  # type: ignore[no-untyped-def]
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def _backward(ctx, gradient):  # type: ignore[no-untyped-def]
    """The output once more, for its gradients. Order and choice of tiles are constants to them: they change in steps."""
    *operands, query_codebook, key_codebook, mask = ctx.saved_tensors
    scale, tile, key_tile, budgets = ctx.options
    with torch.enable_grad():
        operands = [x.detach().requires_grad_() for x in operands]
        query, key, value = operands
        output = _attention(query, key, value, query_codebook, key_codebook, mask, scale, (tile, key_tile), list(budgets))
        return *torch.autograd.grad(output, operands, gradient), *[None] * 7


spectral_attention_op.register_autograd(_backward, setup_context=_keep)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_codebook: torch.Tensor,
    key_codebook: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    tiles: tuple[int, int],
    budgets: list[int],
) -> torch.Tensor:
    kernels = _kernels() if query.is_cuda else None
    if kernels is None or not kernels.fits(query, key, value):
        return SpectralAttention.attention(query, key, value, query_codebook, key_codebook, mask, scale, tiles, budgets)
    books, (tile, key_tile) = (query_codebook, key_codebook), tiles
    return kernels.spectral_attention(
        query, key, value, *books, scale=scale, tile=tile, budget=budgets, key_mask=mask, key_tile=key_tile
    )


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """The module `triton.py`, loaded where a CUDA tensor first asks for it; None without triton."""
    try:
        from . import triton
    except ImportError:
        return None
    return triton
