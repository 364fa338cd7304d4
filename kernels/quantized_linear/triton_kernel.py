"""A linear layer with int8 weights and float inputs as one Triton kernel, and the same function in plain torch. Needs torch alone,
and triton for the kernel."""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

MOST_ROWS = 128
"""Rows of x that one tile holds at most: each tile of rows reads every weight and turns it into a float once."""

if triton is not None:

    @triton.jit
    def int8_linear_kernel(
        x, weight, scale, bias, y, rows, columns, features, x_stride, weight_stride, y_stride,
        HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ):  # fmt: skip
        """One [BLOCK_M, BLOCK_N] tile of y = (x @ weight) * scale + bias. The codes are exact in fp16, bf16 and tf32, so the column scale
        waits for the epilogue: no dequantisation inside the loop."""
        program = tl.program_id(0)
        tiles_n = tl.cdiv(columns, BLOCK_N)
        # GROUP_M row tiles share the weight tiles they read while those are in L2.
        group = program // (GROUP_M * tiles_n)
        first = group * GROUP_M
        height = min(tl.cdiv(rows, BLOCK_M) - first, GROUP_M)
        within = program % (GROUP_M * tiles_n)
        m = (first + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
        n = (within // height) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        x_tile = x + m[:, None].to(tl.int64) * x_stride + k[None, :]
        weight_tile = weight + k[:, None].to(tl.int64) * weight_stride + n[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, features, BLOCK_K):
            inside = k < features - start
            left = tl.load(x_tile, mask=(m[:, None] < rows) & inside[None, :], other=0.0)
            right = tl.load(weight_tile, mask=inside[:, None] & (n[None, :] < columns), other=0)
            # Three tf32 products keep float32 accuracy; for fp16 and bf16 the setting has no effect.
            total = tl.dot(left, right.to(left.dtype), total, input_precision="tf32x3")
            x_tile += BLOCK_K
            weight_tile += BLOCK_K * weight_stride
        total *= tl.load(scale + n, mask=n < columns, other=0.0)[None, :]
        if HAS_BIAS:
            total += tl.load(bias + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
        target = y + m[:, None].to(tl.int64) * y_stride + n[None, :]
        tl.store(target, total.to(y.dtype.element_ty), mask=(m[:, None] < rows) & (n[None, :] < columns))


def tile_of(rows: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes, warps and pipeline stages for a number of rows: few rows stream the weight once, many share it. None of them
    spills registers on sm_80, sm_90 or sm_100, also where strides are odd; BLOCK_K = 64, or float32 tiles of 128 x 128, would."""
    if rows <= 16:
        return {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP_M": 1, "num_warps": 4, "num_stages": 4}
    if rows <= MOST_ROWS:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 4, "num_warps": 4, "num_stages": 4}
    width = 64 if dtype == torch.float32 else 128
    return {"BLOCK_M": MOST_ROWS, "BLOCK_N": width, "BLOCK_K": 32, "GROUP_M": 8, "num_warps": 8, "num_stages": 4}


def int8_linear(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y [..., N] = (x [..., K] @ weight [K, N]) * scale [N] + bias [N], in the dtype of x (fp16, bf16 or fp32); weight int8, scale
    fp32. Sums are fp32. Runs on a CUDA device (sm_80 or newer). Raises ValueError for shapes or dtypes that do not fit, RuntimeError
    where triton is missing."""
    check(x, weight, scale, bias)
    if triton is None:
        raise RuntimeError("int8_linear needs triton on a CUDA device; install it, or call int8_linear_plain.")
    features, columns = weight.shape
    flat, weight = x.reshape(-1, features).contiguous(), weight.contiguous()
    rows = flat.shape[0]
    y = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    tile = tile_of(rows, x.dtype)
    if rows and columns:
        grid = (triton.cdiv(rows, tile["BLOCK_M"]) * triton.cdiv(columns, tile["BLOCK_N"]),)
        int8_linear_kernel[grid](
            flat, weight, scale, scale if bias is None else bias, y, rows, columns, features, features, columns, columns,
            HAS_BIAS=bias is not None, enable_fp_fusion=True, **tile,
        )  # fmt: skip
    return y.reshape(*x.shape[:-1], columns)


def int8_linear_plain(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`int8_linear` in plain torch, on any device; sums in fp32."""
    check(x, weight, scale, bias)
    y = (x.float() @ weight.float()) * scale
    return (y if bias is None else y + bias.float()).to(x.dtype)


def check(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Raises ValueError with a sentence that names the operand that does not fit."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"int8_linear takes x as fp16, bf16 or fp32, not {x.dtype}.")
    if weight.dtype != torch.int8 or weight.dim() != 2:
        raise ValueError(f"int8_linear takes the weight as int8 [K, N], not {weight.dtype} {list(weight.shape)}.")
    if x.dim() < 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"int8_linear got x {list(x.shape)} for a weight {list(weight.shape)}: the last axis of x must be K.")
    for name, vector in (("scale", scale), ("bias", bias)):
        if vector is not None and vector.shape != (weight.shape[1],):
            raise ValueError(f"int8_linear takes one {name} a column, [{weight.shape[1]}], not {list(vector.shape)}.")
