"""What the Triton kernels of spectral attention have in common: padded sizes, numbers that stand for none, and dtypes."""

from __future__ import annotations

import torch
import triton

LEAST = 16
"""A side of a matrix product on tensor cores is no shorter."""
LOG2E = 1.4426950408889634
"""Logits are in units of log 2 in the kernels, since exp2 is what the hardware has."""
ANY_SIZE = (
    "heads", "group", "length", "leaves", "bins", "blocks", "tiles", "query_tile", "tile", "most", "subs", "first", "count", "slots",
    "neighbours", "segments", "pieces", "parts",
)  # fmt: skip
"""Arguments whose values no kernel is compiled anew for: only widths and strides say how wide a load may be."""


def padded(size: int) -> int:
    """The power of two, 16 at least, that holds `size` columns."""
    return max(LEAST, triton.next_power_of_2(size))


def widened(x: torch.Tensor) -> bool:
    """Whether products run on float32 copies: for bfloat16 under the interpreter, which multiplies the bits of that as integers."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def block_of(tile: int, most: int) -> int:
    """Rows of a tile that a program holds at a time: all of them up to `most`, a power of two."""
    return min(most, padded(tile))


def configuration(warps: int, stages: int, **constants: int) -> dict[str, int]:
    """Constants of a kernel with its warps and its pipeline's stages. A product and its sum are one instruction."""
    return {**constants, "num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
