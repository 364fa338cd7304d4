"""`torch.ops.szilard.linear_int4`: the operator as torch knows operators, with a fake for tracing."""

from __future__ import annotations

import torch

from .triton_kernel import linear_int4 as layer


@torch.library.custom_op("szilard::linear_int4", mutates_args=())
def linear_int4(
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
    """`reference.linear_int4_plain`: on CUDA by the kernels of triton_kernel.py, elsewhere in plain torch."""
    return layer(x, weight, scale, shift, bias, residual, group=group, activation=activation, deterministic=deterministic)


@linear_int4.register_fake
def _(x, weight, scale, shift=None, bias=None, residual=None, *, group, activation="none", deterministic=True):  # type: ignore[no-untyped-def]
    return x.new_empty((*x.shape[:-1], weight.shape[1]))
