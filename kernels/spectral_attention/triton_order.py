"""Order of rows by their nearest leaf on a GPU, in Triton: leaves that stream past a running argmin, then a counting sort.

Neither an N x leaves matrix nor a step of the host: the shape of everything is known from the shapes of the operands. The sort is stable
and gives the same order every time (no atomics).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .triton_options import ANY_SIZE, configuration, padded, widened

ROWS = 64
"""Rows of one program: they stay while all leaves pass, and are ranked among themselves by comparing each with each."""


@triton.jit(do_not_specialize=ANY_SIZE)
def assign_kernel(
    x, codebook, mask, leaf, rank, histogram, heads, length, leaves, width, blocks, x_batch, x_head, x_row,
    HAS_MASK: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, LEAVES: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """The nearest leaf of BLOCK rows, how many earlier rows of the block share it, and the counts of the block by leaf."""
    block, head = tl.program_id(0), tl.program_id(1)
    row = block * BLOCK + tl.arange(0, BLOCK)
    x += (head // heads).to(tl.int64) * x_batch + (head % heads).to(tl.int64) * x_head
    codebook += (head % heads).to(tl.int64) * leaves * width
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    nearest = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, leaves, LEAVES):
        number = first + tl.arange(0, LEAVES)
        near, square = tl.zeros((BLOCK, LEAVES), tl.float32), tl.zeros((LEAVES,), tl.float32)
        for start in range(0, width, PART):
            d = start + tl.arange(0, PART)
            rows = tl.load(
                x + row[:, None].to(tl.int64) * x_row + d[None, :], (row[:, None] < length) & (d[None, :] < width), 0.0
            )
            if WIDE:
                rows = rows.to(tl.float32)
            centre = tl.load(
                codebook + number[:, None] * width + d[None, :], (number[:, None] < leaves) & (d[None, :] < width), 0.0
            )
            square += tl.sum(centre * centre, 1)
            # Halves have x exactly; two of them hold enough of c.
            high = centre.to(rows.dtype)
            near = tl.dot(rows, tl.trans(high), near, input_precision="tf32x3")
            if rows.dtype != tl.float32:
                near = tl.dot(rows, tl.trans((centre - high.to(tl.float32)).to(rows.dtype)), near)
        # |x - c|^2 is least where x.c - |c|^2 / 2 is greatest.
        near = tl.where(number[None, :] < leaves, near - (square / 2)[None, :], float("-inf"))
        top, at = tl.max(near, 1, return_indices=True)
        nearest = tl.where(top > best, first + at.to(tl.int32), nearest)
        best = tl.maximum(top, best)
    if HAS_MASK:
        kept = tl.load(mask + (head // heads) * length + row, row < length, 0)
        nearest = tl.where(kept != 0, nearest, leaves)
    nearest = tl.where(row < length, nearest, leaves + 1)
    other = block * BLOCK + tl.arange(0, BLOCK)
    alike = nearest[:, None] == nearest[None, :]
    earlier = tl.sum((alike & (other[None, :] < row[:, None])).to(tl.int32), 1)
    count = tl.sum(alike.to(tl.int32), 1)
    place = head.to(tl.int64) * length + row
    tl.store(leaf + place, nearest, row < length)
    tl.store(rank + place, earlier, row < length)
    slot = (head.to(tl.int64) * (leaves + 1) + nearest) * blocks + block
    tl.store(histogram + slot, count, (row < length) & (earlier == count - 1))


@triton.jit(do_not_specialize=ANY_SIZE)
def place_kernel(leaf, rank, histogram, ends, order, length, bins, blocks, BLOCK: tl.constexpr):
    """Each row to its place: behind all lower leaves, the blocks before its own, and the rows before it in its block."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = block * BLOCK + tl.arange(0, BLOCK)
    inside = row < length
    slot = (head * bins + tl.load(leaf + head * length + row, inside, 0)) * blocks + block
    place = (
        tl.load(ends + slot, inside, 0) - tl.load(histogram + slot, inside, 0) + tl.load(rank + head * length + row, inside, 0)
    )
    tl.store(order + head * length + place, row, inside)


def order_of(x: torch.Tensor, codebook: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """int32 [B, H, N]: the order that sorts `x` [B, H, N, D] by the nearest row of `codebook` [H, leaves, D], rows out of `mask` [B, N]
    last; ties keep theirs. `reference.sorted_by_leaf`, but that halves meet the codebook in two halves instead of float32."""
    batch, heads, length, width = x.shape
    leaves, blocks = codebook.shape[1], triton.cdiv(length, ROWS)
    x, codebook = x if x.stride(-1) == 1 else x.contiguous(), codebook.float().contiguous()
    leaf = torch.empty((batch * heads, length), dtype=torch.int32, device=x.device)
    rank, order = torch.empty_like(leaf), torch.empty_like(leaf)
    histogram = torch.zeros((batch * heads, (leaves + 1) * blocks), dtype=torch.int32, device=x.device)
    grid = blocks, batch * heads
    marks = leaf if mask is None else mask.to(torch.int8).contiguous()
    assign_kernel[grid](
        x, codebook, marks, leaf, rank, histogram, heads, length, leaves, width, blocks, *x.stride()[:3],
        HAS_MASK=mask is not None, WIDE=widened(x), **order_options(width, x.dtype),
    )  # fmt: skip
    ends = histogram.cumsum(1, dtype=torch.int32)
    place_kernel[grid](leaf, rank, histogram, ends, order, length, leaves + 1, blocks, **place_options())
    return order.view(batch, heads, length)


def order_options(width: int, dtype: torch.dtype) -> dict[str, int]:
    """Leaves and columns at a time for rows of `width`: nothing spills on sm_80, sm_90 or sm_100."""
    leaves, warps = (64, 4) if dtype.itemsize * padded(width) <= 64 or dtype.itemsize == 2 else (32, 8)
    return configuration(warps, 2, BLOCK=ROWS, LEAVES=leaves, PART=min(64, padded(width)))


def place_options() -> dict[str, int]:
    """Rows at a time."""
    return configuration(2, 1, BLOCK=ROWS)
