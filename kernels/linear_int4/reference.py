"""A linear layer with weights of 4 bits in plain torch."""

import torch

from ..linear_parts.epilogue import GROUPS, check_operands, check_scales, finished
from .packing import MIDDLE, packed_rows, unpack


def linear_int4_plain(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    group: int,
    activation: str = "none",
    deterministic: bool = True,
) -> torch.Tensor:
    """y [..., N] = activation(x [..., K] W + bias [N]) + residual [..., N] in the dtype of x (fp16, bf16 or fp32), sums in fp32.

    W = codes * scale + shift, the codes packed by `packing.pack`, scale and shift (-zero * scale; without it the zero is 8)
    [ceil(K / group), N], fp16, bf16 or fp32. The weights are computed in fp32 and then in the dtype of x, as on a GPU. Raises ValueError
    for operands that do not fit."""
    check_int4(x, weight, scale, shift, bias, residual, group, activation)
    rounded = weights_of(weight, scale, shift, x.shape[-1], group).to(x.dtype)
    return finished(x.float() @ rounded.float(), bias, residual, activation, x.dtype)


def weights_of(
    weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None, features: int, group: int
) -> torch.Tensor:
    """The weights [K, N] in fp32 that packed codes, scales and shifts stand for."""
    scales = scale.float().repeat_interleave(group, 0)[:features]
    shifts = -MIDDLE * scales if shift is None else shift.float().repeat_interleave(group, 0)[:features]
    return torch.addcmul(shifts, unpack(weight, features).float(), scales)


def check_int4(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    group: int,
    activation: str,
) -> None:
    """Raises ValueError with a sentence that names the operand that does not fit."""
    if group not in GROUPS:
        raise ValueError(f"linear_int4 takes groups of 32, 64 or 128 rows, not {group}.")
    if weight.dtype != torch.uint8 or weight.dim() != 2 or x.dim() < 1 or len(weight) != packed_rows(x.shape[-1]):
        wanted = f"[{packed_rows(x.shape[-1]) if x.dim() else '?'}, N]"
        raise ValueError(
            f"linear_int4 takes weights packed for x {list(x.shape)} as uint8 {wanted}, not {weight.dtype} {list(weight.shape)}."
        )
    features, columns = x.shape[-1], weight.shape[1]
    check_operands("linear_int4", x, features, columns, bias, residual, activation)
    check_scales("linear_int4", "scale", scale, features, columns, group)
    if shift is not None:
        check_scales("linear_int4", "shift", shift, features, columns, group)
