"""The arithmetic of a convolution on codes in plain torch, on floats and on codes."""

from __future__ import annotations

import math

import numpy as np
import torch

from .codes import dequantize, quantize
from .formats import PreparedConv, convolve, effective


def convolved(prepared: PreparedConv, x: np.ndarray, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """y [B, M, *] of floating point x [B, C, *] with the weights and the bias that the integers stand for, clipped, float32."""
    weight, bias = (torch.from_numpy(part).float() for part in effective(prepared))
    y = convolve(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)), weight, bias, prepared.geometry)
    return y.clamp(low, high).numpy()


def simulate(prepared: PreparedConv, codes: np.ndarray) -> np.ndarray:
    """u8 codes of y [B, M, *] from u8 codes of x [B, C, *], as onnxruntime's CPU provider gives them: padding is the code that stands for
    zero, and a result is rounded once."""
    return quantize(convolved(prepared, dequantize(codes, prepared.x)), prepared.y)
