"""A linear layer with int8 weights and float inputs as Triton kernels."""

import torch

from ..linear_parts.triton_parts import need_triton, rows_of, run
from ..linear_parts.tuning import Dispatch
from .reference import check_int8, linear_int8_plain

try:
    import triton
    import triton.language as tl

    from ..linear_parts.triton_parts import place_of, put
except ImportError:
    triton = None

if triton is not None:

    @triton.jit
    def int8_gemv_kernel(
        x, weight, scale, bias, residual, y, parts, rows, columns, features, steps,
        GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, SPLIT: tl.constexpr,
        ATOMIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """BLOCK_N columns of one row. Each thread adds up products of its own; they meet behind the loop."""
        n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        start = tl.program_id(1) * steps * BLOCK_K
        k = start + tl.arange(0, BLOCK_K)
        weight_tile = weight + k[:, None].to(tl.int64) * columns + n[None, :]
        sums = tl.zeros((BLOCK_K, BLOCK_N), dtype=tl.float32)
        for step in tl.range(steps, num_stages=STAGES):
            inside = k < features - step * BLOCK_K
            left = tl.load(x + step * BLOCK_K + k, mask=inside, other=0.0).to(tl.float32)
            right = tl.load(weight_tile, mask=inside[:, None] & (n[None, :] < columns), other=0).to(tl.float32)
            if GROUP:
                row = tl.minimum(start + step * BLOCK_K, features - 1) // GROUP
                factor = tl.load(scale + row.to(tl.int64) * columns + n, mask=n < columns, other=0.0)
                right *= factor.to(tl.float32)[None, :]
            sums += left[:, None] * right
            weight_tile += BLOCK_K * columns
        total = tl.sum(sums, 0)
        if GROUP == 0:
            total *= tl.load(scale + n, mask=n < columns, other=0.0).to(tl.float32)
        put(
            total[None, :], tl.arange(0, 1), n, rows, columns, bias, residual, y, parts,
            HAS_BIAS, HAS_RESIDUAL, ACTIVATION, SPLIT, ATOMIC,
        )  # fmt: skip

    @triton.jit
    def int8_tiled_kernel(
        x, weight, scale, bias, residual, y, parts, rows, columns, features, steps,
        GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, SPLIT: tl.constexpr,
        ATOMIC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ):  # fmt: skip
        """One [BLOCK_M, BLOCK_N] tile over some of K. Codes are exact in fp16, bf16 and tf32, so the scale of a column waits for the end of
        the sum: no dequantisation inside the loop. Scales of groups are multiplied there."""
        m, n = place_of(rows, columns, BLOCK_M, BLOCK_N, GROUP_M)
        start = tl.program_id(1) * steps * BLOCK_K
        k = start + tl.arange(0, BLOCK_K)
        x_tile = x + m[:, None].to(tl.int64) * features + k[None, :]
        weight_tile = weight + k[:, None].to(tl.int64) * columns + n[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            inside = k < features - step * BLOCK_K
            left = tl.load(x_tile, mask=(m[:, None] < rows) & inside[None, :], other=0.0)
            right = tl.load(weight_tile, mask=inside[:, None] & (n[None, :] < columns), other=0)
            if GROUP:
                row = tl.minimum(start + step * BLOCK_K, features - 1) // GROUP
                factor = tl.load(scale + row.to(tl.int64) * columns + n, mask=n < columns, other=0.0)
                right = right.to(tl.float32) * factor.to(tl.float32)[None, :]
            # Three tf32 products keep float32 accuracy; for fp16 and bf16 the setting has no effect.
            total = tl.dot(left, right.to(left.dtype), total, input_precision="tf32x3")
            x_tile += BLOCK_K
            weight_tile += BLOCK_K * columns
        if GROUP == 0:
            total *= tl.load(scale + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
        put(
            total, m, n, rows, columns, bias, residual, y, parts, HAS_BIAS, HAS_RESIDUAL, ACTIVATION, SPLIT, ATOMIC,
        )  # fmt: skip


def linear_int8(
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
    """`linear_int8_plain`, on a CUDA device by the kernels of this file."""
    function = linear_int8_triton if x.is_cuda else linear_int8_plain
    return function(x, weight, scale, bias, residual, group=group, activation=activation, deterministic=deterministic)


def linear_int8_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    group: int = 0,
    activation: str = "none",
    deterministic: bool = True,
    chosen: Dispatch | None = None,
) -> torch.Tensor:
    """`linear_int8_plain` by Triton, on a CUDA device (sm_80 or newer). Unless `deterministic`, parts of sums are added in the order in
    which they come. `chosen` takes the place of the tuning table. Raises ValueError for operands that do not fit, RuntimeError where
    triton is missing."""
    check_int8(x, weight, scale, bias, residual, group, activation)
    need_triton("linear_int8")
    columns = weight.shape[1]
    kernels = {"gemv": int8_gemv_kernel, "tiled": int8_tiled_kernel}
    operands = (weight.contiguous(), scale.contiguous())
    y = run(
        kernels, "int8", rows_of(x), operands, columns, group, {"GROUP": group},
        bias, residual, activation, deterministic, x.dtype, chosen,
    )  # fmt: skip
    return y.reshape(*x.shape[:-1], columns)
