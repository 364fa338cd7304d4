"""Formats with inputs in 16 bits: weights in the same dtype, or for onnxruntime on CUDA in few bits in blocks.

bfloat16 is torch's alone: onnxruntime's CPU provider, on which every file is checked, has no product of it.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

HALF_BITS = {"int8_weight_float16": 8, "int4_weight_float16": 4}
"""Bits of a weight in the formats that are com.microsoft.MatMulNBits; it is symmetric, with one float16 scale a block."""

HALF_FORMATS = ("float16", *HALF_BITS)
"""Formats with inputs in float16."""

DTYPE_FORMATS = ("float16", "bfloat16")
"""Formats that are a dtype: inputs, weight, bias and outputs are all in it, and sums in float32."""

LARGEST_HALF = float(np.finfo(np.float16).max)

WIDE_BLOCK = 128
NARROW_BLOCK = 64
COLUMNS_AT_ONCE = {8: 32, 4: 64}
"""Columns that the kernels for whole tiles take at a time, by bits: of layers with others they take none
(onnxruntime, contrib_ops/cuda/quantization/matmul_nbits.cc, CheckFpAIntBEligibility)."""


def half_block(bits: int, features: int) -> int:
    """Weights that share a scale: 64 of 4 bits, and 128 of 8 bits where the inputs divide by that."""
    return WIDE_BLOCK if bits == 8 and features % WIDE_BLOCK == 0 else NARROW_BLOCK


def spare_columns(bits: int, columns: int) -> int:
    """Columns of zeros behind the others, up to what the kernels take at a time."""
    return -columns % COLUMNS_AT_ONCE[bits]


def block_refusal(action: str, features: int) -> str:
    """Why a layer of so many inputs cannot take the format, "" if it can. Other numbers of inputs would be padded in every call."""
    if action not in HALF_BITS or features % NARROW_BLOCK == 0:
        return ""
    return f"the kernels of onnxruntime's CUDA provider take blocks of {NARROW_BLOCK} weights, and {features} inputs are no multiple of it"


def to_half(array: np.ndarray) -> np.ndarray:
    """The nearest float16 numbers; beyond the largest, that one."""
    return np.clip(array, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 numbers."""
    return np.asarray(array, np.float32).astype(ml_dtypes.bfloat16)
