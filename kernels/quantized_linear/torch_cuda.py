"""Linears in the formats of Triton kernels as torch modules for CUDA. The source text of a class is what an emitted model.py carries,
beside the kernels that it calls, in files such as kernels/linear_int8.py."""

from __future__ import annotations

import torch

from ..linear_fp8 import registration as fp8_operator
from ..linear_fp8 import triton_kernel as linear_fp8
from ..linear_int4 import registration as int4_operator
from ..linear_int4 import triton_kernel as linear_int4
from ..linear_int8 import registration as int8_operator
from ..linear_int8 import triton_kernel as linear_int8
from .formats import Prepared
from .gpu_formats import INT4_GROUP

OPERATORS = (int8_operator.linear_int8, int4_operator.linear_int4, fp8_operator.linear_fp8)
"""The kernels of this file as operators of torch: who imports it has torch.ops.szilard.linear_int8, linear_int4 and linear_fp8."""


class Int8ColumnLinear(torch.nn.Module):
    """y = activation(x W + b) + residual with int8 weights and one scale for each column: a Triton kernel on CUDA, the same in plain torch
    elsewhere."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, in_features: int, out_features: int, activation: str = "none") -> None:
        super().__init__()
        self.arguments = f"{in_features}, {out_features}, activation={activation!r}"
        self.activation = activation
        self.register_buffer("weight", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return linear_int8.linear_int8(x, self.weight, self.weight_scale, self.bias, residual, activation=self.activation)

    def extra_repr(self) -> str:
        return self.arguments


class Int4GroupLinear(torch.nn.Module):
    """y = activation(x W + b) + residual with weights of 4 bits and one scale, and if `shifted` one shift, for each group of rows of a
    column: a Triton kernel on CUDA, the same in plain torch elsewhere."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    weight_shift: torch.Tensor | None
    bias: torch.Tensor

    def __init__(self, in_features: int, out_features: int, group: int, shifted: bool, activation: str = "none") -> None:
        super().__init__()
        self.arguments = f"{in_features}, {out_features}, group={group}, shifted={shifted}, activation={activation!r}"
        self.group, self.activation = group, activation
        groups = -(-in_features // group)
        self.register_buffer("weight", torch.zeros(-(-in_features // 64) * 32, out_features, dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.ones(groups, out_features, dtype=torch.float16))
        self.register_buffer("weight_shift", torch.zeros(groups, out_features, dtype=torch.float16) if shifted else None)
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return linear_int4.linear_int4(
            x,
            self.weight,
            self.weight_scale,
            self.weight_shift,
            self.bias,
            residual,
            group=self.group,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        return self.arguments


class Fp8ColumnLinear(torch.nn.Module):
    """y = activation(x W + b) + residual with fp8 weights and one scale for each column, x in float or with `rows_in_fp8` rounded row by
    row to fp8: a Triton kernel on CUDA, the same in plain torch elsewhere."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, in_features: int, out_features: int, rows_in_fp8: bool, activation: str = "none") -> None:
        super().__init__()
        self.arguments = f"{in_features}, {out_features}, rows_in_fp8={rows_in_fp8}, activation={activation!r}"
        self.rows_in_fp8, self.activation = rows_in_fp8, activation
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.float8_e4m3fn))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return linear_fp8.linear_fp8(
            x, self.weight, self.weight_scale, self.bias, residual, activation=self.activation, rows_in_fp8=self.rows_in_fp8
        )

    def extra_repr(self) -> str:
        return self.arguments


def build(prepared: Prepared, activation: str = "none") -> torch.nn.Module:
    """A module [..., K] -> [..., N] that runs `prepared`, whose format is one of `TRITON_FORMATS`, with one of the epilogue's `ACTIVATIONS`
    behind it. A merged one gives all its columns."""
    sizes = prepared.in_features, prepared.out_features
    tensors = {name: torch.from_numpy(array) for name, array in prepared.tensors.items() if name != "splits"}
    if prepared.base == "int8_column_weight":
        module: torch.nn.Module = Int8ColumnLinear(*sizes, activation)
    elif prepared.base == "int4_group_weight":
        module = Int4GroupLinear(*sizes, INT4_GROUP, "weight_shift" in tensors, activation)
    else:
        module = Fp8ColumnLinear(*sizes, prepared.base == "fp8_token", activation)
        tensors["weight"] = tensors["weight"].view(torch.float8_e4m3fn)
    module.load_state_dict(tensors)
    return module.eval()
