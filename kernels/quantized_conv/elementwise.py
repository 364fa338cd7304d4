"""Adds, Gelus and means on u8 codes: what they become, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erf, expit

from .codes import Codes, dequantize, quantize

ACTIONS = {"add": "int8_add", "gelu": "int8_gelu", "mean": "int8_mean"}
"""Function of a site -> its action."""

SIGMOID = Codes(1 / 255, 0)
"""How a sigmoid is held: 0 and 1 are codes of their own."""

SLOPES = np.linspace(1.5, 1.9, 41)
"""What is tried as the slope of the sigmoid of a Gelu: x sigmoid(1.702 x) is off by 0.02 at most (Hendrycks and Gimpel 2016, section 2);
which is best depends on where x lies."""


@dataclass(frozen=True)
class PreparedElementwise:
    """y = clip(a + b), x sigmoid(`slope` x) for a Gelu, or the mean of x over all places, of what `reads` stand for, in the codes `y`,
    whose saturation is the clip. x has `rank` axes; a mean keeps them, one place each, unless `flat`."""

    action: str
    reads: tuple[Codes, ...]
    y: Codes
    rank: int
    flat: bool = False
    slope: float = 0.0

    @property
    def result_rank(self) -> int:
        """The axes of y."""
        return 2 if self.flat else self.rank


def prepare_gelu(samples: Sequence[np.ndarray], x: Codes, y: Codes) -> PreparedElementwise:
    """The Gelu of values seen in `samples`, with the slope that has the least squared error on their codes."""
    count = sum(np.bincount(quantize(sample, x).reshape(-1), minlength=256) for sample in samples)
    held = dequantize(np.arange(256, dtype=np.uint8), x).astype(np.float64)
    wanted = held * (1 + erf(held / np.sqrt(2))) / 2
    errors = [count @ (gelu(held, slope) - wanted) ** 2 for slope in SLOPES]
    return PreparedElementwise(ACTIONS["gelu"], (x,), y, samples[0].ndim, slope=float(SLOPES[int(np.argmin(errors))]))


def gelu(x: np.ndarray, slope: float) -> np.ndarray:
    """x sigmoid(slope x), the sigmoid in codes, of the shape of x."""
    return x * dequantize(quantize(expit(slope * x), SIGMOID), SIGMOID)


def simulate(prepared: PreparedElementwise, *reads: np.ndarray) -> np.ndarray:
    """Codes of y from codes of what it reads, uint8 [B, C, *]."""
    x, *others = (dequantize(codes, how) for codes, how in zip(reads, prepared.reads, strict=True))
    if prepared.action == ACTIONS["mean"]:
        return quantize(x.mean(tuple(range(2, x.ndim)), keepdims=not prepared.flat), prepared.y)
    return quantize(x + others[0] if others else gelu(x, prepared.slope), prepared.y)
