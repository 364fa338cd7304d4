"""One scale for each row of a layer's input: the zero point that all rows share, and how a row gives its scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST = 1e-30
"""The peak of a row of zeros."""

ONE_SIDED_WORTH = 1.1
ZEROS = np.arange(1, 255)


class RowRange(NamedTuple):
    """A row x has the peak max(x, floor) and, if `two_sided`, no less than -x * below; its codes are round(x (1 / peak) / step) + zero."""

    zero: int
    floor: float
    two_sided: bool

    @property
    def step(self) -> np.float32:
        """The difference between two codes, as a share of the peak."""
        return np.float32(1 / (255 - self.zero))

    @property
    def below(self) -> np.float32:
        """What a value below zero counts: the codes above the zero point over those below it."""
        return np.float32((255 - self.zero) / self.zero)


def row_range(x: np.ndarray | None) -> RowRange:
    """The zero point that makes the squared steps of the rows of `x` [M, K] smallest in sum; 128 without an x.

    Where one floor for all rows, from the least value of `x`, makes that sum hardly larger, the least value of each row need not be
    searched: so it is behind a GELU, which is never below -0.17."""
    if x is None:
        return RowRange(128, SMALLEST, True)
    high, low = np.maximum(x.max(axis=1), 0).astype(np.float64), np.maximum(-x.min(axis=1), 0).astype(np.float64)
    above, below = high[:, None] / (255 - ZEROS), low[:, None] / ZEROS
    both = np.square(np.maximum(above, below)).sum(axis=0)
    single = np.square(np.maximum(above, below.max(axis=0))).sum(axis=0)
    if single.min() <= ONE_SIDED_WORTH * both.min():
        zero = int(ZEROS[single.argmin()])
        return RowRange(zero, max(float(low.max() / zero * (255 - zero)), SMALLEST), False)
    return RowRange(int(ZEROS[both.argmin()]), SMALLEST, True)


def row_peaks(x: np.ndarray, found: RowRange) -> np.ndarray:
    """float32 [M, 1]: the peak of each row of `x` [M, K]."""
    peak = np.maximum(x.max(axis=1, keepdims=True), np.float32(found.floor))
    return np.maximum(peak, x.min(axis=1, keepdims=True) * -found.below) if found.two_sided else peak
