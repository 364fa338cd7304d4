"""Scales and zero points of blocks of a weight's rows, for codes of few bits."""

from __future__ import annotations

import numpy as np

from .half_formats import to_half


def symmetric(grouped: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points [blocks, N] of `grouped` [blocks, block, N] with the zero point in the middle. The value of largest magnitude
    takes the code 0, which is one step farther from the middle than the largest code: a negative scale where that value is positive."""
    middle = 1 << (bits - 1)
    extreme = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=1)[:, None], axis=1)[:, 0]
    scale = -extreme / middle
    return nonzero(scale), np.full(scale.shape, middle, np.float32)


def asymmetric(grouped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """4-bit scales and zero points [blocks, N] that cover min to max of each block, zero included."""
    low, high = np.minimum(grouped.min(axis=1), 0), np.maximum(grouped.max(axis=1), 0)
    scale = nonzero((high - low) / 15)
    return scale, np.clip(np.rint(-low / scale), 0, 15).astype(np.float32)


def nonzero(scale: np.ndarray) -> np.ndarray:
    """Scales, of any shape, as float32; those of zeros (or of denormals, whose quotient would overflow) are 1: their codes are all zero."""
    return np.where(np.abs(scale) < np.finfo(np.float32).tiny, 1, scale).astype(np.float32)


def in_half(scale: np.ndarray) -> np.ndarray:
    """The scales in float16, those that are no more than zeros there as 1."""
    return nonzero(to_half(scale)).astype(np.float16)
