"""Causal spectral attention on a GPU, in Triton: what `causal.py` says, forward (`triton_causal_forward.py`) and backward
(`triton_causal_gradient.py`).

None of it waits for the host, and shapes follow from the shapes of the operands. The gradients are exact but for the tiles and the choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .causal import DENSE, LAYOUT, Layout
from .triton import whole_columns
from .triton_causal_forward import Options, attended
from .triton_causal_gradient import causal_gradients
from .triton_options import LEAST
from .widths import MOST_WIDTH


def causal_spectral_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    budget: int | Sequence[int | None],
    layout: Layout = LAYOUT,
) -> torch.Tensor:
    """`causal.causal_spectral_attention` on a CUDA device of sm_80 or newer, where a budget of None is a dense head: queries, keys and
    values in one of float16, bfloat16 and float32, heads of up to 256 columns, 128 in float32. Differentiable in all three.

    Tiles, scores and choice are computed in float32 of the operands as they are (in half precision, products of scores in tf32), logits,
    softmax and sums too; what is multiplied beyond has the dtype of the operands. The layout's sizes are powers of two and a tile of
    queries 16 or more. Raises ValueError for operands that do not fit each other or the kernels.
    """
    heads, depth = query.shape[1], value.shape[-1]
    budgets = [budget] * heads if isinstance(budget, int) else budget
    options = Options(scale, tuple(DENSE if each is None else min(each, DENSE) for each in budgets), layout)
    _check(query, key, value, options)
    output: torch.Tensor = _CausalSpectralAttention.apply(*(whole_columns(x) for x in (query, key, value)), options)
    return output[..., :depth]


class _CausalSpectralAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, options):  # type: ignore[no-untyped-def]
        if not query.numel():
            return query.new_zeros((*query.shape[:-1], value.shape[-1]))
        with torch.cuda.device_of(query):
            found, planned = attended(query, key, value, options, keep=any(ctx.needs_input_grad))
        # The output itself would lead back to this node, and stay until the garbage collector comes.
        ctx.operands, ctx.found = (query, key, value), found._replace(output=found.output.detach())
        ctx.planned, ctx.options = planned, options
        return found.output

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        query, key, value = ctx.operands
        with torch.cuda.device_of(gradient):
            return *causal_gradients(query, key, value, gradient, ctx.found, ctx.planned, ctx.options), None


def _check(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Options) -> None:
    heads, shared, length, layout, budgets = query.shape[1], key.shape[1], query.shape[2], options.layout, options.budgets
    if heads % shared or value.shape[1] != shared or key.shape[2] != length or value.shape[2] != length:
        raise ValueError(f"Queries {list(query.shape)} cannot attend causally to {list(key.shape)} and {list(value.shape)}.")
    if len(budgets) != heads or min(budgets) < 0:
        raise ValueError(f"Budgets are one for each of {heads} heads and none below zero, not {list(budgets)}.")
    sizes = layout.query_tile, layout.key_tile, layout.segment
    if any(size & (size - 1) for size in sizes) or layout.query_tile < LEAST:
        raise ValueError(f"The kernels take sizes that are powers of two, and {LEAST} queries or more in a tile, not {layout}.")
    if query.dtype not in MOST_WIDTH or {key.dtype, value.dtype} != {query.dtype}:
        raise ValueError(
            f"The kernels take one of {list(MOST_WIDTH)} for all three, not {query.dtype}, {key.dtype} and {value.dtype}."
        )
    most = MOST_WIDTH[query.dtype]
    if max(query.shape[-1], value.shape[-1]) > most:
        raise ValueError(f"The kernels take heads of up to {most} columns, not {query.shape[-1]} and {value.shape[-1]}.")
