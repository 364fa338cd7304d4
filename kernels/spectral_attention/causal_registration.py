"""`torch.ops.szilard.causal_spectral_attention`: the causal operator as torch knows operators, with a fake for tracing and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import torch

from .causal import DENSE, LAYOUT, Layout
from .causal import causal_spectral_attention as reference
from .causal_torch_module import CausalSpectralAttention


@torch.library.custom_op("szilard::causal_spectral_attention", mutates_args=())
def causal_spectral_attention_op(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, budgets: Sequence[int], sizes: Sequence[int]
) -> torch.Tensor:
    """`causal.causal_spectral_attention` with a budget for each head, `DENSE` for all tiles, and the sizes of its layout in their order: on
    CUDA by the kernels of `triton_causal.py`, elsewhere and for what these do not take by plain torch."""
    if (kernels := _kernels_for(query, key, value)) is not None:
        output: torch.Tensor = kernels.causal_spectral_attention(
            query, key, value, scale=scale, budget=budgets, layout=Layout(*sizes)
        )
        return output
    query_tile, key_tile, segment, sink = sizes
    module = CausalSpectralAttention(tuple(budgets), scale, (query_tile, key_tile, segment, sink))
    found: torch.Tensor = module(query, key, value)
    return found


def causal_spectral_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    budget: int | Sequence[int | None],
    layout: Layout = LAYOUT,
) -> torch.Tensor:
    """The registered operator with the arguments of the reference, which it equals to rounding; a budget of None is a dense head."""
    budgets = [budget] * query.shape[1] if isinstance(budget, int) else budget
    sizes = [layout.query_tile, layout.key_tile, layout.segment, layout.sink]
    return causal_spectral_attention_op(query, key, value, scale, [DENSE if each is None else each for each in budgets], sizes)


@causal_spectral_attention_op.register_fake
def _(query, key, value, scale, budgets, sizes):  # type: ignore[no-untyped-def]
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx, gradient):  # type: ignore[no-untyped-def]
    """The output once more, for its gradients; the plain module writes in place, so elsewhere than on CUDA by the reference."""
    scale, budgets, sizes = ctx.options
    kernels = _kernels_for(*ctx.saved_tensors)
    form = reference if kernels is None else kernels.causal_spectral_attention
    with torch.enable_grad():
        operands = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        output = form(*operands, scale=scale, budget=list(budgets), layout=Layout(*sizes))
        return *torch.autograd.grad(output, operands, gradient), None, None, None


causal_spectral_attention_op.register_autograd(_backward, setup_context=_keep)


def _kernels_for(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> ModuleType | None:
    """The module `triton_causal.py` where it takes these operands."""
    modules = _kernels() if query.is_cuda else None
    return modules[1] if modules is not None and modules[0].fits(query, key, value) else None


@lru_cache(maxsize=1)
def _kernels() -> tuple[ModuleType, ModuleType] | None:
    """`triton.py` and `triton_causal.py`, loaded where a CUDA tensor first asks for them; None without triton."""
    try:
        from . import triton, triton_causal
    except ImportError:
        return None
    return triton, triton_causal
