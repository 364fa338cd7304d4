"""A linear layer with weights of 4 bits and float inputs as Triton kernels."""

import torch

from ..linear_parts.triton_parts import need_triton, rows_of, run
from ..linear_parts.tuning import Dispatch
from .reference import check_int4, linear_int4_plain

try:
    import triton
    import triton.language as tl

    from ..linear_parts.triton_parts import place_of, put
except ImportError:
    triton = None

if triton is not None:

    @triton.jit
    def expanded(
        codes, scale, shift, k, n, columns, features, GROUP: tl.constexpr, HAS_SHIFT: tl.constexpr,
    ):  # fmt: skip
        """The weights of a tile of codes whose first row is k; all of its rows are in one group. One multiply-add each."""
        row = (tl.minimum(k, features - 1) // GROUP).to(tl.int64) * columns
        factor = tl.load(scale + row + n, mask=n < columns, other=0.0).to(tl.float32)
        added = -8.0 * factor
        if HAS_SHIFT:
            added = tl.load(shift + row + n, mask=n < columns, other=0.0).to(tl.float32)
        return codes.to(tl.float32) * factor[None, :] + added[None, :]

    @triton.jit
    def int4_gemv_kernel(
        x, weight, scale, shift, bias, residual, y, parts, rows, columns, features, steps,
        GROUP: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
        SPLIT: tl.constexpr, ATOMIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """BLOCK_N columns of one row, 64 rows of the weight at a time. Threads add up products of their own, which meet behind the loop."""
        tl.static_assert(BLOCK_K == 64)
        n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        i = tl.arange(0, 32)
        start = tl.program_id(1) * steps
        weight_tile = weight + (start * 32 + i)[:, None].to(tl.int64) * columns + n[None, :]
        sums = tl.zeros((32, BLOCK_N), dtype=tl.float32)
        for step in tl.range(steps, num_stages=STAGES):
            k = (start + step) * 64
            low = tl.load(x + k + i, mask=k + i < features, other=0.0).to(tl.float32)
            high = tl.load(x + k + 32 + i, mask=k + 32 + i < features, other=0.0).to(tl.float32)
            codes = tl.load(weight_tile, mask=(k + i < features)[:, None] & (n[None, :] < columns), other=0)
            sums += low[:, None] * expanded(codes & 15, scale, shift, k, n, columns, features, GROUP, HAS_SHIFT)
            sums += high[:, None] * expanded(codes >> 4, scale, shift, k + 32, n, columns, features, GROUP, HAS_SHIFT)
            weight_tile += 32 * columns
        put(
            tl.sum(sums, 0)[None, :], tl.arange(0, 1), n, rows, columns, bias, residual, y, parts,
            HAS_BIAS, HAS_RESIDUAL, ACTIVATION, SPLIT, ATOMIC,
        )  # fmt: skip

    @triton.jit
    def int4_tiled_kernel(
        x, weight, scale, shift, bias, residual, y, parts, rows, columns, features, steps,
        GROUP: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
        SPLIT: tl.constexpr, ATOMIC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
        GROUP_M: tl.constexpr,
    ):  # fmt: skip
        """One [BLOCK_M, BLOCK_N] tile over some of K, 64 rows of the weight at a time: a product with the low nibbles of 32 rows of
        bytes, and one with the high ones."""
        tl.static_assert(BLOCK_K == 64)
        m, n = place_of(rows, columns, BLOCK_M, BLOCK_N, GROUP_M)
        i = tl.arange(0, 32)
        start = tl.program_id(1) * steps
        x_tile = x + m[:, None].to(tl.int64) * features + start * 64 + i[None, :]
        weight_tile = weight + (start * 32 + i)[:, None].to(tl.int64) * columns + n[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            k = (start + step) * 64
            low = tl.load(x_tile, mask=(m[:, None] < rows) & (k + i < features)[None, :], other=0.0)
            high = tl.load(x_tile + 32, mask=(m[:, None] < rows) & (k + 32 + i < features)[None, :], other=0.0)
            codes = tl.load(weight_tile, mask=(k + i < features)[:, None] & (n[None, :] < columns), other=0)
            first = expanded(codes & 15, scale, shift, k, n, columns, features, GROUP, HAS_SHIFT)
            # Three tf32 products keep float32 accuracy; for fp16 and bf16 the setting has no effect.
            total = tl.dot(low, first.to(low.dtype), total, input_precision="tf32x3")
            second = expanded(codes >> 4, scale, shift, k + 32, n, columns, features, GROUP, HAS_SHIFT)
            total = tl.dot(high, second.to(high.dtype), total, input_precision="tf32x3")
            x_tile += 64
            weight_tile += 32 * columns
        put(
            total, m, n, rows, columns, bias, residual, y, parts, HAS_BIAS, HAS_RESIDUAL, ACTIVATION, SPLIT, ATOMIC,
        )  # fmt: skip


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
    """`linear_int4_plain`, on a CUDA device by the kernels of this file."""
    function = linear_int4_triton if x.is_cuda else linear_int4_plain
    return function(x, weight, scale, shift, bias, residual, group=group, activation=activation, deterministic=deterministic)


def linear_int4_triton(
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
    chosen: Dispatch | None = None,
) -> torch.Tensor:
    """`linear_int4_plain` by Triton, on a CUDA device (sm_80 or newer). Unless `deterministic`, parts of sums are added in the order in
    which they come. `chosen` takes the place of the tuning table. Raises ValueError for operands that do not fit, RuntimeError where
    triton is missing."""
    check_int4(x, weight, scale, shift, bias, residual, group, activation)
    need_triton("linear_int4")
    columns = weight.shape[1]
    kernels = {"gemv": int4_gemv_kernel, "tiled": int4_tiled_kernel}
    operands = (weight.contiguous(), scale.contiguous(), scale if shift is None else shift.contiguous())
    y = run(
        kernels, "int4", rows_of(x), operands, columns, group, {"GROUP": group, "HAS_SHIFT": shift is not None},
        bias, residual, activation, deterministic, x.dtype, chosen,
    )  # fmt: skip
    return y.reshape(*x.shape[:-1], columns)
