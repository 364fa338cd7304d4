"""A value held in u8 codes: its scales, what they are chosen by, and the way there and back."""

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

FINEST = 4
"""The largest scale over that of any channel: channels that calibration hardly saw need room."""


@dataclass(frozen=True)
class Codes:
    """How a value [B, C, *] is held in u8 codes: round(x / scale) + zero, saturating at 0 and 255; one scale, or one for each channel."""

    scales: tuple[float, ...]
    zero: int

    @property
    def common(self) -> float:
        """The largest scale: the scale of a value that has one."""
        return max(self.scales)

    def spread(self, rank: int) -> np.ndarray:
        """The scales as float32, to be broadcast over a value of that rank."""
        scales = np.array(self.scales, np.float32)
        return scales.reshape(1, -1, *(1,) * (rank - 2)) if len(scales) > 1 else scales.reshape(())


def value_codes(samples: Sequence[np.ndarray], by_channel: bool = False) -> Codes:
    """The codes of a value [B, C, *] seen in `samples`: of the shares `CLIPS` of its range, zero included, those that round it with the
    least squared error. `by_channel`: one scale a channel for the same share of its own range, where that rounds better, and one zero
    point: a third of the error of EfficientNet-Lite0 on what calibration saw, but ten times that on other photographs, which such ranges
    clip. InputError where a sample is not finite."""
    seen = [_channels(sample) for sample in samples]
    bottom = np.minimum(np.min([part.min(axis=1) for part in seen], axis=0), 0)
    top = np.maximum(np.max([part.max(axis=1) for part in seen], axis=0), 0)
    if not np.isfinite(bottom).all() or not np.isfinite(top).all():
        raise InputError("The calibration inputs of a convolution hold values that are not finite, so no range can be had.")
    flat = np.concatenate([_some(part) for part in seen], axis=1)
    whole = [_one(float(bottom.min()) * share, float(top.max()) * share) for share in CLIPS]
    errors = [_errors(flat, np.full(len(flat), codes.common, np.float32), codes.zero) for codes in whole]
    best = int(np.argmin([error.sum() for error in errors]))
    if not by_channel or len(flat) == 1:
        return whole[best]
    zero = whole[best].zero
    reach = np.maximum(top / max(255 - zero, 1), -bottom / zero if zero else 0)
    reach = np.maximum(reach, reach.max() / FINEST)
    scales = np.where(reach > 0, reach * CLIPS[best], 1).astype(np.float32)
    if not _errors(flat, scales, zero).sum() < errors[best].sum():
        return whole[best]
    return Codes(tuple(float(scale) for scale in scales), zero)


def quantize(x: np.ndarray, codes: Codes) -> np.ndarray:
    """The codes of float32 x, as QuantizeLinear gives them: uint8 of its shape."""
    return np.clip(np.rint(x / codes.spread(x.ndim)) + codes.zero, 0, 255).astype(np.uint8)


def dequantize(x: np.ndarray, codes: Codes) -> np.ndarray:
    """What u8 codes stand for, float32."""
    return (x.astype(np.float32) - codes.zero) * codes.spread(x.ndim)


def _channels(sample: np.ndarray) -> np.ndarray:
    """[B, C, *] as [C, the rest]."""
    return np.moveaxis(np.asarray(sample, np.float32), 1, 0).reshape(sample.shape[1], -1)


def _some(part: np.ndarray) -> np.ndarray:
    return part[:, :: -(-part.size // MOST)]


def _one(bottom: float, top: float) -> Codes:
    scale, zero = input_range(np.array([bottom, top]))
    return Codes((scale,), zero)


def _errors(flat: np.ndarray, scales: np.ndarray, zero: int) -> np.ndarray:
    """Squared error of each channel of `flat` [C, N] in codes of its scale."""
    held = np.clip(np.rint(flat / scales[:, None]), -zero, 255 - zero)
    held *= scales[:, None]
    held -= flat
    return np.einsum("cn,cn->c", held, held, dtype=np.float64)
