"""`WindowAxis`: how a sliding window lies over one axis, which of its taps fall on padding, and how often windows overlap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import kinds
from .net import Net, Op


@dataclass(frozen=True)
class WindowAxis:
    """One axis. `products`: pairs of a window position and a tap that meet an element, not padding; `overlap`: the most such pairs
    in one element; `touched`: elements that some pair meets; `taps` and `places`: taps and positions that meet any element."""

    products: int
    overlap: int
    touched: int
    taps: int
    places: int


@lru_cache(maxsize=1024)
def window_axis(size: int, made: int, kernel: int, stride: int = 1, dilation: int = 1, pad: int = 0) -> WindowAxis:
    """Windows of `kernel` taps at `made` positions over `size` elements: position o and tap r meet element o stride + r dilation - pad."""
    met, placed = np.zeros(size, np.int64), np.zeros(made, bool)
    products = taps = 0
    for tap in range(kernel):
        offset = tap * dilation - pad
        first, last = max(0, -(offset // stride)), min(made - 1, (size - 1 - offset) // stride)
        if first > last:
            continue
        met[offset + first * stride : offset + last * stride + 1 : stride] += 1
        placed[first : last + 1] = True
        products += last - first + 1
        taps += 1
    return WindowAxis(products, int(met.max(initial=0)), int(np.count_nonzero(met)), taps, int(np.count_nonzero(placed)))


def window_axes(op: Op, net: Net) -> tuple[WindowAxis, ...] | None:
    """The windows of a convolution or a pool, axis by axis; None when a shape is missing or does not fit. In a transposed convolution the
    outputs are the elements and the inputs the positions."""
    x, y = (net.shape(name) for name in (op.inputs[0], op.output))
    weight = net.shape(op.inputs[1]) if op.kind in kinds.CONVOLUTION else None
    kernel = weight[2:] if weight else op.attributes.get("kernel")
    if x is None or y is None or not kernel or len(x) != len(y) or len(x) != len(kernel) + 2:
        return None
    elements, made = (y[2:], x[2:]) if op.attributes.get("transposed") else (x[2:], y[2:])
    axes = len(kernel)
    strides, dilations = (list(op.attributes.get(key) or [1] * axes) for key in ("strides", "dilations"))
    pads = list(op.attributes.get("pads") or [0] * axes)[:axes]
    if not len(strides) == len(dilations) == len(pads) == axes:
        return None
    return tuple(window_axis(*map(int, axis)) for axis in zip(elements, made, kernel, strides, dilations, pads, strict=True))
