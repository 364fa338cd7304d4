"""A linear layer with fp8 (e4m3) weights in plain torch."""

import torch

from ..linear_parts.epilogue import check_operands, check_scales, finished

LARGEST = 448.0
"""The largest number of e4m3."""


def linear_fp8_plain(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    rows_in_fp8: bool = False,
    activation: str = "none",
    deterministic: bool = True,
) -> torch.Tensor:
    """y [..., N] = activation(x [..., K] W + bias [N]) + residual [..., N] in the dtype of x (fp16, bf16 or fp32), sums in fp32.

    W is the transpose of `weight` float8_e4m3fn [N, K] times `scale` [N]: rows of the weight are columns of W, as tensor cores read fp8.
    With `rows_in_fp8` each row of x is rounded to e4m3 too, with a scale of its own. Raises ValueError for operands that do not fit."""
    check_fp8(x, weight, scale, bias, residual, activation)
    codes, factor = rounded_rows(x.float()) if rows_in_fp8 else (x, torch.ones(()))
    sums = (codes.float() @ weight.float().T) * (factor.to(x.device) * scale.float())
    return finished(sums, bias, residual, activation, x.dtype)


def rounded_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x / scale in float8_e4m3fn, scale float32 [..., 1]) with scale = max |x| / 448 over each row, 1 where that is not a
    normal number: such a row counts as zeros."""
    scale = x.float().abs().amax(dim=-1, keepdim=True) / LARGEST
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def check_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    activation: str,
) -> None:
    """Raises ValueError with a sentence that names the operand that does not fit."""
    if weight.dtype != torch.float8_e4m3fn or weight.dim() != 2:
        raise ValueError(f"linear_fp8 takes the weight as float8_e4m3fn [N, K], not {weight.dtype} {list(weight.shape)}.")
    columns, features = weight.shape
    check_operands("linear_fp8", x, features, columns, bias, residual, activation)
    check_scales("linear_fp8", "scale", scale, features, columns, 0)
