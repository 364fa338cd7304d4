"""The arithmetic of a convolution on codes in plain torch, as onnxruntime's CPU provider does it."""

from __future__ import annotations

import numpy as np
import torch

from .formats import PreparedConv, convolve


def simulate(prepared: PreparedConv, codes: np.ndarray) -> np.ndarray:
    """u8 codes of y [B, M, *] from u8 codes of x [B, C, *]: exact integer sums (to float64), one multiplier a channel, rounded to even.
    Padding is the code that stands for zero."""
    centred = torch.from_numpy(codes.astype(np.float64) - prepared.x.zero)
    bias = torch.from_numpy(prepared.bias.astype(np.float64))
    sums = convolve(centred, torch.from_numpy(prepared.weight.astype(np.float64)), bias, prepared.geometry).numpy()
    multiplier = np.float32(prepared.x.common) * prepared.weight_scale / prepared.y.spread(2).reshape(-1)
    scaled = sums * multiplier.reshape(1, -1, *(1,) * (sums.ndim - 2))
    return np.clip(np.rint(scaled) + prepared.y.zero, 0, 255).astype(np.uint8)
