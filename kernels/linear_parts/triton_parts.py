"""What the Triton kernels of low-bit linear layers have in common: where a tile lies, where its sums go, and how a call is launched.

K may be split over several programs. Their parts are added in a second kernel, in order (the same bits in every run), or as they come, by
atomic additions in fp32, which needs less memory. That kernel then does the epilogue; without a split the first one does it.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import prod

import torch

from .epilogue import finished
from .tuning import DEFAULT, Dispatch, dispatch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

FINISH_BLOCK = 512
INTERPRETED_PROCESSORS = 4
"""Multiprocessors that the interpreter on a CPU is said to have: few, so that sums are split there too."""

if triton is not None:

    @triton.jit
    def place_of(rows, columns, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
        """Rows and columns of a program's tile. GROUP_M tiles of rows share the weight tiles they read while those are in L2."""
        program = tl.program_id(0)
        tiles_n = tl.cdiv(columns, BLOCK_N)
        group = program // (GROUP_M * tiles_n)
        first = group * GROUP_M
        height = min(tl.cdiv(rows, BLOCK_M) - first, GROUP_M)
        within = program % (GROUP_M * tiles_n)
        m = (first + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
        return m, (within // height) * BLOCK_N + tl.arange(0, BLOCK_N)

    @triton.jit
    def activated(total, ACTIVATION: tl.constexpr):
        """The function of the epilogue; NaN stays NaN."""
        if ACTIVATION == "relu":
            total = tl.where(total < 0.0, 0.0, total)
        elif ACTIVATION == "gelu":
            total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
        elif ACTIVATION == "silu":
            total = total / (1.0 + tl.exp(-total))
        return total

    @triton.jit
    def put(
        total, m, n, rows, columns, bias, residual, y, parts,
        HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, SPLIT: tl.constexpr, ATOMIC: tl.constexpr,
    ):  # fmt: skip
        """The sums of a tile to y through the epilogue, or if K is split to `parts`, where `finish_kernel` finds them."""
        inside = (m[:, None] < rows) & (n[None, :] < columns)
        place = m[:, None].to(tl.int64) * columns + n[None, :]
        if SPLIT:
            if ATOMIC:
                tl.atomic_add(parts + place, total, mask=inside, sem="relaxed")
            else:
                tl.store(parts + tl.program_id(1).to(tl.int64) * rows * columns + place, total, mask=inside)
        else:
            if HAS_BIAS:
                total += tl.load(bias + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
            total = activated(total, ACTIVATION)
            if HAS_RESIDUAL:
                total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
            tl.store(y + place, total.to(y.dtype.element_ty), mask=inside)

    @triton.jit
    def finish_kernel(
        parts, bias, residual, y, rows, columns, splits,
        HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """BLOCK elements of y: the parts [splits, rows, columns] added in their order, then the epilogue."""
        # Not rows.to(): a size of 1 is a number of Python here.
        size = tl.cast(rows, tl.int64) * columns
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = place < size
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for _ in range(splits):
            total += tl.load(parts + place, mask=inside, other=0.0)
            parts += size
        if HAS_BIAS:
            total += tl.load(bias + place % columns, mask=inside, other=0.0).to(tl.float32)
        total = activated(total, ACTIVATION)
        if HAS_RESIDUAL:
            total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + place, total.to(y.dtype.element_ty), mask=inside)


def rows_of(x: torch.Tensor) -> torch.Tensor:
    """x [..., K] as [M, K]; one row for a vector [K]."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])


def run(
    kernels: Mapping, kernel: str, x: torch.Tensor, operands: tuple, columns: int, group: int, constants: Mapping,
    bias: torch.Tensor | None, residual: torch.Tensor | None, activation: str, deterministic: bool, dtype: torch.dtype,
    chosen: Dispatch | None = None,
) -> torch.Tensor:  # fmt: skip
    """y [M, N] in `dtype` from x [M, K] and what else the kernels of a format read. `kernels` are its "gemv" and "tiled" ones, called as
    kernel[grid](x, *operands, bias, residual, y, parts, rows, columns, features, steps, ...); `chosen` takes the place of the table."""
    (rows, features), x = x.shape, x.contiguous()
    y = torch.empty((rows, columns), dtype=dtype, device=x.device)
    if not y.numel() or not features:
        return finished(y.zero_(), bias, None if residual is None else residual.reshape(y.shape), activation, dtype)
    if chosen is None:
        gpu, processors = card(x.device)
        chosen = dispatch(kernel, rows, features, columns, group, str(dtype).removeprefix("torch."), gpu, processors)
    split, tiles = chosen.split > 1, chosen.tiles
    parts = y
    if split:
        make = torch.empty if deterministic else torch.zeros
        parts = make((chosen.split if deterministic else 1, rows, columns), dtype=torch.float32, device=x.device)
    behind = {"HAS_BIAS": bias is not None, "HAS_RESIDUAL": residual is not None, "ACTIVATION": activation}
    added = (y if bias is None else bias.contiguous(), y if residual is None else residual.contiguous())
    grid = (triton.cdiv(columns, tiles["BLOCK_N"]) * triton.cdiv(rows, tiles.get("BLOCK_M", 1)), chosen.split)
    with torch.cuda.device_of(x):
        kernels[chosen.way][grid](
            x, *operands, *added, y, parts, rows, columns, features, chosen.steps,
            **constants, **behind, SPLIT=split, ATOMIC=not deterministic, enable_fp_fusion=True, **tiles,
        )  # fmt: skip
        if split:
            finish_kernel[(triton.cdiv(y.numel(), FINISH_BLOCK),)](
                parts, *added, y, rows, columns, len(parts), **behind, BLOCK=FINISH_BLOCK
            )
    return y


@lru_cache(maxsize=16)
def card(device: torch.device) -> tuple[str, int]:
    """The name of a GPU and the number of its multiprocessors."""
    if device.type != "cuda":
        return DEFAULT, INTERPRETED_PROCESSORS
    found = torch.cuda.get_device_properties(device)
    return found.name, found.multi_processor_count


def need_triton(name: str) -> None:
    """Raises RuntimeError where triton is missing."""
    if triton is None:
        raise RuntimeError(f"{name} needs triton on a CUDA device; install it, or call {name}_plain.")
