"""Traffic of the best tiling: the bytes that a loop nest moves beyond its compulsory ones when its operands do not fit a fast memory.

Each figure belongs to a schedule that exists, the best over all integer tiles of a few classical loop orders. So traffic is never below
an I/O lower bound, never grows with the memory, and is compulsory once the operands fit. Where not even the smallest tile fits, it is
taken all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isqrt, prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Extents = tuple[int, int, int]


@dataclass(frozen=True)
class Product:
    """`batch` products [rows, inner] x [inner, columns]; bytes of an element of the `left` and `right` operands and of a `partial` sum.

    Three orders: a tile of the result stays and both operands stream past it, or whole rows of the left operand stay, or whole columns of
    the right one. To cut those rows too would move partial sums, at sqrt(2) times the traffic of the first order.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    left: float
    right: float
    partial: float

    def excess(self, fast: float) -> float:
        """Bytes beyond reading both operands and writing the result once, with `fast` bytes of fast memory [B]."""
        m, k, n, p = self.rows, self.inner, self.columns, self.partial
        row, column = self.left, self.right
        if min(m * n * p + m * row + n * column, m * k * row + k * column + m * p, k * n * column + k * row + n * p) <= fast:
            return 0.0
        left, right, a = row * m * k, column * k * n, tiles(m)
        orders = (
            float((left * again(n, (fast - a * row) / (a * p + column)) + right * again(m, a)).min()),
            right * again(m, (fast - k * column) / (k * row + p)),
            left * again(n, (fast - k * row) / (k * column + p)),
            left * (n - 1.0) + right * (m - 1.0),
        )
        return self.batch * float(min(orders))


@dataclass(frozen=True)
class Window:
    """A convolution of `images` in `groups`, each of `inputs` to `outputs` channels. `extent` is the output in space as (first, middle,
    last) axis, `kernel` the window with its dilation, `step` the stride or the window, whichever is less, `taps` the weights for a pair of
    channels; `read` the compulsory bytes of the input; then bytes of an element as in `Product`.

    Three orders: a tile of the result stays while the channels of its patch stream by; the patch stays with all its channels; or all
    weights of some results stay and the input slides through a buffer of as many rows as the window is high. The middle axis is
    never cut.
    """

    images: int
    groups: int
    inputs: int
    outputs: int
    extent: Extents
    kernel: Extents
    step: Extents
    taps: int
    read: float
    input: float
    weight: float
    partial: float

    def excess(self, fast: float) -> float:
        """Bytes beyond reading input and weights and writing the result once, with `fast` bytes of fast memory [B]."""
        return min(self._weights_stay(fast), self._patch_stays(fast))

    def _weights_stay(self, fast: float) -> float:
        spans = self._span(np.array([self.extent[0]]), np.array([self.extent[2]]))
        row = spans[1] * spans[2]
        line = float(((self.kernel[0] - 1) * row + (self.kernel[1] - 1) * spans[2] + self.kernel[2])[0])
        channels = (fast - self.inputs * line * self.input) / (self.inputs * self.taps * self.weight + self.partial)
        return self.read * float(again(self.outputs, channels))

    def _patch_stays(self, fast: float) -> float:
        first, middle, last = self.extent
        # A tile is a piece of one image, or several whole ones.
        h, w = (side.ravel() for side in np.meshgrid(tiles(first), tiles(last)))
        several = tiles(self.images)
        images = np.concatenate([np.ones(len(h)), several])
        h, w = np.concatenate([h, np.full(len(several), first)]), np.concatenate([w, np.full(len(several), last)])
        patch, pixels = images * prod(self._span(h, w)), images * h * middle * w
        blocks = np.ceil(self.images / images) * np.ceil(first / h) * np.ceil(last / w)
        halo = self._touched(0, h) * self._touched(2, w)
        weights = self.weight * self.groups * self.outputs * self.inputs * self.taps * (blocks - 1.0)
        room = (fast - patch * self.input) / (pixels * self.partial + self.taps * self.weight)
        smallest = int(np.argmin(pixels))
        room[smallest] = max(room[smallest], 1.0)
        by_result = self.read * (halo * (1.0 + again(self.outputs, room)) - 1.0) + weights
        held = self.inputs * (patch * self.input + self.taps * self.weight) + pixels * self.partial
        by_patch = np.where(held <= fast, self.read * (halo - 1.0) + weights, inf)
        return float(min(by_result.min(), by_patch.min()))

    def _span(self, h: Array, w: Array) -> list[Array]:
        """Input elements that a tile of h x middle x w outputs touches, by axis."""
        tile = (h, np.full_like(h, self.extent[1]), w)
        return [(n - 1) * s + k for n, s, k in zip(tile, self.step, self.kernel, strict=True)]

    def _touched(self, axis: int, tile: Array) -> Array:
        """Input elements along an axis that all tiles touch together, over those there are: windows of neighbours overlap."""
        whole, step, kernel = self.extent[axis], self.step[axis], self.kernel[axis]
        blocks = np.ceil(whole / tile)
        return ((whole - blocks) * step + blocks * kernel) / ((whole - 1) * step + kernel)


@dataclass(frozen=True)
class Scores:
    """Attention in one kernel: `batch` times `rows` queries against `keys` of `depth` and values of `value_depth`; bytes of an element of
    `query` and of `key` and value, and of a `partial` result. Heads that share keys count as rows of one. Half when `causal`.

    Two orders: a tile of queries stays with its results and all keys stream by (FlashAttention-2, arXiv 2307.08691), or all keys stay. To
    cut the keys too would move partial results.
    """

    batch: int
    rows: int
    keys: int
    depth: int
    value_depth: int
    query: float
    key: float
    partial: float
    causal: bool = False

    def excess(self, fast: float) -> float:
        """Bytes beyond reading queries, keys and values and writing the result once, with `fast` bytes of fast memory [B]."""
        pair = (self.depth + self.value_depth) * self.key
        # A row holds its query, its result, and the score, maximum and sum of its softmax.
        row = self.depth * self.query + (self.value_depth + 3) * self.partial
        if min(self.rows * row + pair, self.keys * pair + row) <= fast:
            return 0.0
        blocks = min(float(again(self.rows, (fast - pair) / row)), self.rows - 1.0)
        return self.batch * self.keys * pair * blocks * (0.5 if self.causal else 1.0)


@dataclass(frozen=True)
class Steps:
    """`weights` bytes that each of `steps` steps needs, one step after the other (the recurrent weights of an LSTM)."""

    weights: float
    steps: int

    def excess(self, fast: float) -> float:
        """Bytes of weights read again: what `fast` bytes cannot hold, in every step but the first [B]."""
        return (self.steps - 1.0) * max(0.0, self.weights - fast)


@dataclass(frozen=True)
class Repeated:
    """A nest in the body of a loop that runs `times` times, each time on operands of its own."""

    nest: Product | Window | Scores | Steps | Repeated
    times: int

    def excess(self, fast: float) -> float:
        """Bytes beyond the compulsory ones of all the runs, with `fast` bytes of fast memory [B]."""
        return self.times * self.nest.excess(fast)


Nest = Product | Window | Scores | Steps | Repeated


@lru_cache(maxsize=65536)
def excess(nest: Nest, fast: float) -> float:
    """Bytes that the best tiling of one nest moves beyond the compulsory ones [B]; `fast` bytes of fast memory."""
    return nest.excess(fast)


def reread(nests: Iterable[Nest], fast: float) -> float:
    """The sum of `excess` over nests that run one after the other [B]."""
    return sum(excess(nest, fast) for nest in nests)


@lru_cache(maxsize=4096)
def tiles(extent: int) -> Array:
    """Tile lengths worth trying: the shortest for each number of blocks that `extent` can be cut into. About 2 sqrt(extent) of them."""
    few = np.arange(1, isqrt(extent) + 2)
    return np.unique(np.minimum(extent, np.concatenate([few, -(-extent // few)]))).astype(np.float64)


def again(extent: int, tile: Any) -> Any:
    """How often what streams past is read again when `extent` is cut into blocks of at most `tile`; infinity for tiles below one."""
    whole = np.floor(tile)
    return np.where(whole >= 1.0, np.ceil(extent / np.maximum(whole, 1.0)) - 1.0, inf)
