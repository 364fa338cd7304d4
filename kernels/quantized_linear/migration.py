"""The input of a statically quantised layer: its range, and the rescaling of outlier channels that makes the range narrow."""

from __future__ import annotations

import numpy as np

from .row_scale import row_peaks, row_range

CEILING = 4.0
OUTLIER_COUNTS = (8, 16)
WORTH = 0.5
ROWS = 2048


def input_range(x: np.ndarray) -> tuple[float, int]:
    """Scale (a float32 value) and zero point of the u8 codes that cover min to max of `x`, zero included; scale 1 if x is all zero."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = float(np.float32((high - low) / 255))
    if scale < np.finfo(np.float32).tiny:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def channel_multipliers(weight: np.ndarray, x: np.ndarray, *, by_row: bool = False) -> np.ndarray | None:
    """Multipliers [K] (float32, within [1/4, 1]) of the columns of `x` [M, K], or None where they gain too little. The codes of x have one
    range, or with `by_row` one scale a row.

    A channel with absolute maximum a is divided by clip(a / t, 1, 4), with t such that only some 8 to 16 outlier channels
    change, and its row of `weight` [K, N] is multiplied by the same. Rescaling all channels (SmoothQuant) is harmful on the down
    projections of MiniLM, where channels are rarely active; this mild form took the cosine of its embeddings from 0.9937 to
    0.9989. It costs one multiplication of x (about 2 % of the model), so it must bring the output error of this layer below
    `WORTH` of what it was without."""
    sample = x if len(x) <= ROWS else x[np.linspace(0, len(x) - 1, ROWS).astype(np.int64)]
    peaks = np.abs(x).max(axis=0)
    descending = np.sort(peaks)[::-1]
    exact = sample @ weight
    rounded = _rounded_by_row if by_row else _rounded
    best, best_error = None, WORTH * _output_error(weight, rounded(sample, x), exact)
    for count in OUTLIER_COUNTS:
        threshold = descending[count] if count * 4 <= len(peaks) else 0.0
        if threshold <= 0:
            continue
        factor = np.clip(peaks / threshold, 1, CEILING).astype(np.float32)
        multipliers = (1 / factor).astype(np.float32)
        error = _output_error(weight / multipliers[:, None], rounded(sample * multipliers, x * multipliers), exact)
        if error < best_error:
            best, best_error = multipliers, error
    return best


def _rounded(sample: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`sample` as the u8 codes of the range of `x` give it back."""
    scale, zero = input_range(x)
    return (np.clip(np.rint(sample / scale) + zero, 0, 255) - zero).astype(np.float32) * np.float32(scale)


def _rounded_by_row(sample: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same with one scale a row."""
    found = row_range(x)
    scale = row_peaks(sample, found) * found.step
    return (np.clip(np.rint(sample / scale) + found.zero, 0, 255) - found.zero).astype(np.float32) * scale


def _output_error(weight: np.ndarray, rounded: np.ndarray, exact: np.ndarray) -> float:
    """Squared error of the layer's output with rounded inputs and per-column s8 weights, rounded to nearest."""
    column = np.abs(weight).max(axis=0) / 127
    column[column == 0] = 1
    return float(np.sum(np.square(rounded @ (np.rint(weight / column) * column) - exact, dtype=np.float64)))
