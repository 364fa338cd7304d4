"""`torch.ops.szilard.linear_fp8`: the operator as torch knows operators, with a fake for tracing."""

from __future__ import annotations

import torch

from .triton_kernel import linear_fp8 as layer


@torch.library.custom_op("szilard::linear_fp8", mutates_args=())
def linear_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    rows_in_fp8: bool = False,
    activation: str = "none",
    deterministic: bool = True,
) -> torch.Tensor:
    """`reference.linear_fp8_plain`: on CUDA by the kernels of triton_kernel.py, elsewhere in plain torch."""
    return layer(x, weight, scale, bias, residual, rows_in_fp8=rows_in_fp8, activation=activation, deterministic=deterministic)


@linear_fp8.register_fake
def _(x, weight, scale, bias=None, residual=None, rows_in_fp8=False, activation="none", deterministic=True):  # type: ignore[no-untyped-def]
    return x.new_empty((*x.shape[:-1], len(weight)))
