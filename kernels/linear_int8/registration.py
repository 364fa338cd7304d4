"""`torch.ops.szilard.linear_int8`: the operator as torch knows operators, with a fake for tracing."""

from __future__ import annotations

import torch

from .triton_kernel import linear_int8 as layer


@torch.library.custom_op("szilard::linear_int8", mutates_args=())
def linear_int8(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    group: int = 0,
    activation: str = "none",
    deterministic: bool = True,
) -> torch.Tensor:
    """`reference.linear_int8_plain`: on CUDA by the kernels of triton_kernel.py, elsewhere in plain torch."""
    return layer(x, weight, scale, bias, residual, group=group, activation=activation, deterministic=deterministic)


@linear_int8.register_fake
def _(x, weight, scale, bias=None, residual=None, group=0, activation="none", deterministic=True):  # type: ignore[no-untyped-def]
    return x.new_empty((*x.shape[:-1], weight.shape[1]))
