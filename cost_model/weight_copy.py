"""The copy in 16 bits that a product makes of weights of few bits before it multiplies many rows by them."""

from __future__ import annotations

from math import prod

from .counts_traffic import value_bytes
from .net import Net, Op

HALF_BYTES = 2.0
MOST_ROWS = 16
"""Rows that onnxruntime's CUDA kernels multiply by weights as they are stored; for more they expand all weights to a scratch buffer and
call cuBLAS (contrib_ops/cuda/quantization: kSmallMMax of matmul_4bits_batched_impl.cuh, ComputeInternal of matmul_nbits.cc). Releases
before the middle of 2026 have such a kernel for one row alone."""


def copied_bytes(op: Op, net: Net) -> float:
    """Bytes of that copy [B], written and read once by each call; 0 where none is made: for few rows, inputs that are not of 16 bits,
    products of integers or fp8, and kernels that expand the weights tile by tile. 0 too for shapes that are not known."""
    how = op.attributes
    if op.kind != "matmul_nbits" or how.get("accuracy_level") == 4 or how.get("computed_in") or how.get("row_tile"):
        return 0.0
    a, y = net.shape(op.inputs[0]), net.shape(op.output)
    if not a or not y or prod(a[:-1]) <= MOST_ROWS or value_bytes(op.inputs[0], net) != HALF_BYTES * prod(a):
        return 0.0
    return HALF_BYTES * a[-1] * y[-1]
