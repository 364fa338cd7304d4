"""A linear layer with int8 weights in plain torch."""

import torch

from ..linear_parts.epilogue import GROUPS, check_operands, check_scales, finished


def linear_int8_plain(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    group: int = 0,
    activation: str = "none",
    deterministic: bool = True,
) -> torch.Tensor:
    """y [..., N] = activation(x [..., K] W + bias [N]) + residual [..., N] in the dtype of x (fp16, bf16 or fp32), sums in fp32.

    W = weight * scale, `weight` int8 [K, N]; `scale` [N], or with a `group` of rows [ceil(K / group), N]. Raises ValueError for operands
    that do not fit."""
    check_int8(x, weight, scale, bias, residual, group, activation)
    if group:
        sums = x.float() @ (weight.float() * scale.float().repeat_interleave(group, 0)[: len(weight)])
    else:
        sums = (x.float() @ weight.float()) * scale.float()
    return finished(sums, bias, residual, activation, x.dtype)


def check_int8(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    group: int,
    activation: str,
) -> None:
    """Raises ValueError with a sentence that names the operand that does not fit."""
    if weight.dtype != torch.int8 or weight.dim() != 2:
        raise ValueError(f"linear_int8 takes the weight as int8 [K, N], not {weight.dtype} {list(weight.shape)}.")
    if group not in (0, *GROUPS):
        raise ValueError(f"linear_int8 takes groups of 32, 64 or 128 rows, or 0 for one scale a column, not {group}.")
    features, columns = weight.shape
    check_operands("linear_int8", x, features, columns, bias, residual, activation)
    check_scales("linear_int8", "scale", scale, features, columns, group)
