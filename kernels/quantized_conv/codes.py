"""A value held in u8 codes: its scale, what that is chosen by, and the way there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...cost_model.errors import InputError
from ..quantized_linear.migration import input_range

CLIPS = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of the range of a value that are tried as the range of its codes."""

MOST = 1 << 20
"""Elements of a sample that ranges are weighed on."""


@dataclass(frozen=True)
class Codes:
    """How a value is held in u8 codes: round(x / scale) + zero, saturating at 0 and 255. One scale for all of it: scales of channels took
    the error of EfficientNet-Lite0 to a third on what calibration saw, and to ten times that on other photographs, which they clip."""

    scale: float
    zero: int


def value_codes(samples: Sequence[np.ndarray]) -> Codes:
    """The codes of a value seen in `samples`: of the shares `CLIPS` of its range, zero included, those that round it with the least squared
    error. InputError where a sample is not finite."""
    # By numpy, whose least and greatest of what is no number are none.
    bottom, top = np.min([0.0, *(sample.min() for sample in samples)]), np.max([0.0, *(sample.max() for sample in samples)])
    if not np.isfinite([bottom, top]).all():
        raise InputError("The calibration inputs of a convolution hold values that are not finite, so no range can be had.")
    flat = np.concatenate([_some(sample) for sample in samples])
    tried = [Codes(*input_range(np.array([bottom, top]) * share)) for share in CLIPS]
    return min(tried, key=lambda codes: _error(flat, codes))


def quantize(x: np.ndarray, codes: Codes) -> np.ndarray:
    """The codes of float32 x, as QuantizeLinear gives them: uint8 of its shape."""
    return np.clip(np.rint(x / np.float32(codes.scale)) + codes.zero, 0, 255).astype(np.uint8)


def dequantize(x: np.ndarray, codes: Codes) -> np.ndarray:
    """What u8 codes stand for, float32."""
    return (x.astype(np.float32) - codes.zero) * np.float32(codes.scale)


def _some(sample: np.ndarray) -> np.ndarray:
    """At most `MOST` elements of [B, C, *], from all channels."""
    channels = np.moveaxis(np.asarray(sample, np.float32), 1, 0).reshape(sample.shape[1], -1)
    return channels[:, :: -(-channels.size // MOST)].reshape(-1)


def _error(flat: np.ndarray, codes: Codes) -> float:
    """Squared error of holding values in codes."""
    held = np.clip(np.rint(flat / np.float32(codes.scale)), -codes.zero, 255 - codes.zero)
    held *= np.float32(codes.scale)
    held -= flat
    return float(np.einsum("n,n->", held, held, dtype=np.float64))
