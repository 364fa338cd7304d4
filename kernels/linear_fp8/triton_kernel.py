"""A linear layer with fp8 weights as Triton kernels: products of fp8 with fp8 where the GPU has them, else of floats."""

import torch

from ..linear_parts.triton_parts import need_triton, rows_of, run
from ..linear_parts.tuning import Dispatch
from .reference import LARGEST, check_fp8, linear_fp8_plain, rounded_rows

try:
    import triton
    import triton.language as tl

    from ..linear_parts.triton_parts import place_of, put
except ImportError:
    triton = None

ROW_BLOCK = 1024
NATIVE_FROM = (8, 9)
"""The compute capability from which on GPUs convert and multiply e4m3."""

if triton is not None:

    @triton.jit
    def widened(codes, NATIVE: tl.constexpr, DTYPE: tl.constexpr):
        """fp8 weights in a float dtype, exactly; where the GPU has no fp8 a 256th of them, from their bytes. The bits of e4m3, put where
        fp16 has its own, are the number times 2^-8, as their exponents count from 7 and 15: subnormal ones too."""
        if NATIVE:
            wide = codes.to(DTYPE)
        else:
            byte = codes.to(tl.int16)
            wide = (((byte & 0x80) << 8) | ((byte & 0x7F) << 7)).to(tl.float16, bitcast=True).to(DTYPE)
        return wide

    @triton.jit
    def fp8_gemv_kernel(
        x, weight, scale, x_scale, bias, residual, y, parts, rows, columns, features, steps,
        ROWS_IN_FP8: tl.constexpr, NATIVE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
        ACTIVATION: tl.constexpr, SPLIT: tl.constexpr, ATOMIC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
        STAGES: tl.constexpr,
    ):  # fmt: skip
        """BLOCK_N columns of one row. Each thread adds up products of its own; they meet behind the loop."""
        n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.program_id(1) * steps * BLOCK_K + tl.arange(0, BLOCK_K)
        weight_tile = weight + n[:, None].to(tl.int64) * features + k[None, :]
        sums = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
        for step in tl.range(steps, num_stages=STAGES):
            inside = k < features - step * BLOCK_K
            left = tl.load(x + step * BLOCK_K + k, mask=inside, other=0.0).to(tl.float32)
            right = tl.load(weight_tile, mask=inside[None, :] & (n[:, None] < columns), other=0.0)
            sums += left[None, :] * widened(right, NATIVE, tl.float32)
            weight_tile += BLOCK_K
        total = tl.sum(sums, 1) * tl.load(scale + n, mask=n < columns, other=0.0).to(tl.float32)
        if ROWS_IN_FP8:
            total *= tl.load(x_scale)
        if not NATIVE:
            total *= 256.0
        put(
            total[None, :], tl.arange(0, 1), n, rows, columns, bias, residual, y, parts,
            HAS_BIAS, HAS_RESIDUAL, ACTIVATION, SPLIT, ATOMIC,
        )  # fmt: skip

    @triton.jit
    def fp8_tiled_kernel(
        x, weight, scale, x_scale, bias, residual, y, parts, rows, columns, features, steps,
        ROWS_IN_FP8: tl.constexpr, NATIVE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
        ACTIVATION: tl.constexpr, SPLIT: tl.constexpr, ATOMIC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
        BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ):  # fmt: skip
        """One [BLOCK_M, BLOCK_N] tile over some of K. Weights are exact in fp16, bf16 and tf32, so scales wait for the sum."""
        m, n = place_of(rows, columns, BLOCK_M, BLOCK_N, GROUP_M)
        k = tl.program_id(1) * steps * BLOCK_K + tl.arange(0, BLOCK_K)
        x_tile = x + m[:, None].to(tl.int64) * features + k[None, :]
        weight_tile = weight + n[None, :].to(tl.int64) * features + k[:, None]
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(steps):
            inside = k < features - step * BLOCK_K
            left = tl.load(x_tile, mask=(m[:, None] < rows) & inside[None, :], other=0.0)
            right = tl.load(weight_tile, mask=inside[:, None] & (n[None, :] < columns), other=0.0)
            if ROWS_IN_FP8 and NATIVE:
                # Hopper adds products of fp8 in fewer bits: after each step they go into the float32 sum.
                total = tl.dot(left, right, total, max_num_imprecise_acc=BLOCK_K)
            else:
                # Three tf32 products keep float32 accuracy; for fp16 and bf16 the setting has no effect.
                total = tl.dot(left, widened(right, NATIVE, left.dtype), total, input_precision="tf32x3")
            x_tile += BLOCK_K
            weight_tile += BLOCK_K
        total *= tl.load(scale + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
        if ROWS_IN_FP8:
            total *= tl.load(x_scale + m, mask=m < rows, other=0.0)[:, None]
        if not NATIVE:
            total *= 256.0
        put(
            total, m, n, rows, columns, bias, residual, y, parts, HAS_BIAS, HAS_RESIDUAL, ACTIVATION, SPLIT, ATOMIC,
        )  # fmt: skip

    @triton.jit
    def fp8_rows_kernel(x, codes, scales, features, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
        """One row of x in e4m3, and its scale."""
        row = tl.program_id(0).to(tl.int64) * features
        most = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, features, BLOCK):
            k = start + tl.arange(0, BLOCK)
            sizes = tl.abs(tl.load(x + row + k, mask=k < features, other=0.0).to(tl.float32))
            most = tl.maximum(most, sizes, propagate_nan=tl.PropagateNan.ALL)
        # tl.max passes over NaN: a row that holds one has no scale.
        scale = tl.where(tl.max((most != most).to(tl.int32), 0) > 0, float("nan"), tl.max(most, 0) / LARGEST)
        scale = tl.where(scale < 1.1754943508222875e-38, 1.0, scale)
        tl.store(scales + tl.program_id(0), scale)
        for start in range(0, features, BLOCK):
            k = start + tl.arange(0, BLOCK)
            values = tl.load(x + row + k, mask=k < features, other=0.0).to(tl.float32) / scale
            values = tl.clamp(values, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
            tl.store(codes + row + k, values.to(codes.dtype.element_ty), mask=k < features)


def linear_fp8(
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
    """`linear_fp8_plain`, on a CUDA device by the kernels of this file."""
    function = linear_fp8_triton if x.is_cuda else linear_fp8_plain
    return function(
        x, weight, scale, bias, residual, rows_in_fp8=rows_in_fp8, activation=activation, deterministic=deterministic
    )


def linear_fp8_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    rows_in_fp8: bool = False,
    activation: str = "none",
    deterministic: bool = True,
    chosen: Dispatch | None = None,
) -> torch.Tensor:
    """`linear_fp8_plain` by Triton, on a CUDA device (sm_80 or newer; products of fp8 with fp8 from sm_89 on, before that in fp16). Unless
    `deterministic`, parts of sums are added in the order in which they come. `chosen` takes the place of the tuning table. Raises
    ValueError for operands that do not fit, RuntimeError where triton is missing."""
    check_fp8(x, weight, scale, bias, residual, activation)
    need_triton("linear_fp8")
    native = x.is_cuda and torch.cuda.get_device_capability(x.device) >= NATIVE_FROM
    flat, columns = rows_of(x), len(weight)
    scale = factor = scale.contiguous()
    if rows_in_fp8 and flat.numel():
        flat, factor = fp8_rows(flat) if native else rounded_rows(flat)
        flat = flat if native else flat.half()
    bits = weight.contiguous() if native else weight.contiguous().view(torch.uint8)
    y = run(
        {"gemv": fp8_gemv_kernel, "tiled": fp8_tiled_kernel}, "fp8 rows" if rows_in_fp8 else "fp8", flat, (bits, scale, factor), columns, 0,
        {"ROWS_IN_FP8": rows_in_fp8, "NATIVE": native}, bias, residual, activation, deterministic, x.dtype, chosen,
    )  # fmt: skip
    return y.reshape(*x.shape[:-1], columns)


def fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rounded_rows` of x [M, K] in one kernel, on a GPU that has fp8."""
    x = x.contiguous()
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        fp8_rows_kernel[(len(x),)](x, codes, scales, x.shape[1], LARGEST=LARGEST, BLOCK=ROW_BLOCK)
    return codes, scales
