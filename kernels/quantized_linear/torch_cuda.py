"""int8 weights with one scale a column as a torch module for CUDA. Its source text is what an emitted model.py carries, beside a copy of
triton_kernel.py as kernels/int8_linear.py."""

from __future__ import annotations

import torch

from . import triton_kernel as int8_linear
from .formats import Prepared


class Int8ColumnLinear(torch.nn.Module):
    """y = x W + b with int8 weights and one scale for each column: a Triton kernel on CUDA, the same in plain torch elsewhere."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.arguments = f"{in_features}, {out_features}"
        self.register_buffer("weight", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function = int8_linear.int8_linear if x.is_cuda else int8_linear.int8_linear_plain
        return function(x, self.weight, self.weight_scale, self.bias)

    def extra_repr(self) -> str:
        return self.arguments


def build(prepared: Prepared) -> torch.nn.Module:
    """A module [..., K] -> [..., N] that runs `prepared`, whose format is one of `TRITON_FORMATS`. A merged one gives all its columns."""
    module = Int8ColumnLinear(prepared.in_features, prepared.out_features)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in prepared.tensors.items() if name != "splits"})
    return module.eval()
