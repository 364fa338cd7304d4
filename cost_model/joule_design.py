"""`Point` and `joule_points`: the matched microbenchmarks that tell flops, bytes, launches and time apart, as data.

One kernel alone has all of them in one proportion. So each kind of work is done inside and outside the cache, in several dtypes, with
little and much arithmetic for each byte, on few and on all cores, and again with a wait behind it, which adds seconds and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, isqrt
from typing import Any

import numpy as np

from .cost import Cost
from .counts_traffic import item_bytes
from .device import Device
from .net import Net, Op, Value
from .price import price_net

CALL_SECONDS = 1e-3
"""What one call should last [s]: long beside the gap between two, short beside the tick of a counter."""
MOST_REPEATS = 256
_STEP = 128
_RESULTS = {"int8": "int32", "float8_e4m3fn": "bfloat16"}


@dataclass(frozen=True)
class Point:
    """One microbenchmark: `operator` (see `_KINDS`) on random operands of `dtype`, `repeats` times a call, then `pause` seconds [s] of a
    device that waits awake. `timed` is False where the seconds say nothing about how fast such kernels are: few cores work, or none.

    `shape`: [elements] of "neg", "relu", "gelu", "sigmoid", "tanh" and "add"; [rows, columns] of "sum", "softmax" and "layer_norm";
    [batch, rows, inner, columns] of "matmul"; [images, channels, height, width, outputs, kernel] of "conv", without stride or rim;
    [batch, heads, length, depth] of "attention" and "causal_attention"; [] of "wait".
    """

    family: str
    operator: str
    dtype: str
    shape: tuple[int, ...]
    repeats: int = 1
    pause: float = 0.0
    timed: bool = True

    @property
    def config(self) -> str:
        """Its name: "matmul bfloat16 1x4096x4096x4096 x3 paused"."""
        if self.operator == "wait":
            return "wait"
        several, paused = f" x{self.repeats}" if self.repeats > 1 else "", " paused" if self.pause else ""
        return f"{self.operator} {self.dtype} {'x'.join(map(str, self.shape))}{several}{paused}"

    @cached_property
    def net(self) -> Net:
        """What one repeat does, as a net of at most one op: it is counted and priced as models are."""
        if self.operator == "wait":
            return Net({}, {}, (), ())
        shapes, result, attributes = _SHAPES[self.operator](self.shape)
        names = tuple(f"x{index}" for index in range(len(shapes)))
        values = {name: Value(name, shape, self.dtype) for name, shape in zip(names, shapes, strict=True)}
        values["y"] = Value("y", result, _RESULTS.get(self.dtype, self.dtype))
        kind = "matmul_integer" if self.operator == "matmul" and self.dtype == "int8" else _KINDS[self.operator]
        return Net({"op": Op("op", kind, self.operator, names, ("y",), attributes)}, values, names, ("y",))

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of its operands."""
        return tuple(value.shape or () for name, value in self.net.values.items() if name != "y")

    def cost(self, device: Device) -> Cost:
        """What one repeat costs on `device`, without the pause."""
        return price_net(self.net, device).total


def joule_points(device: Device) -> tuple[Point, ...]:
    """The design for a card like `device`: sizes follow its cache, repeats its speed, dtypes what it has units for. Shuffled, always in the
    same way, so that a drift of the card meets every family alike.

    Some 45 points, of which each may take five seconds.
    """
    cache = device.value("capacity.cache")
    few, many = _elements(cache / 6), _elements(4 * cache)
    points = [
        *_streams(few, many),
        *_products(cache, device),
        Point("reduction", "sum", "float32", (many // 4096, 4096)),
        Point("reduction", "softmax", "bfloat16", (few // 1024, 1024)),
        Point("reduction", "softmax", "float16", (many // 1024, 1024)),
        Point("reduction", "layer_norm", "float32", (few // 1024, 1024)),
        Point("conv", "conv", "float32", (16, 128, 30, 30, 128, 3)),
        Point("conv", "conv", "bfloat16", (64, 256, 30, 30, 256, 3)),
        Point("conv", "conv", "float16", (64, 512, 28, 28, 256, 1)),
        Point("attention", "attention", "bfloat16", (4, 16, 2048, 64)),
        Point("attention", "causal_attention", "float16", (8, 16, 1024, 64)),
        Point("attention", "attention", "float32", (1, 16, 1024, 64)),
        Point("launch", "neg", "float32", (1024,)),
        Point("launch", "add", "bfloat16", (1024,)),
    ]
    points = [_repeated(point, device) for point in points]
    points += [_paused(_found(points, *which), device) for which in _PAUSED]
    points.append(Point("idle", "wait", "", (), pause=CALL_SECONDS, timed=False))
    order = np.random.default_rng(0).permutation(len(points))
    return tuple(points[index] for index in order)


_PAUSED = (("copy", "float32"), ("matmul", "float32"), ("matmul", "bfloat16"), ("launch", "float32"))
"""Family and dtype of the points that are done again with a wait as long as they are."""


def _streams(few: int, many: int) -> Iterable[Point]:
    """Copies (one operation a number) and the same with growing arithmetic, inside the cache (`few` elements) and outside (`many`)."""
    for operator, dtype, size in (
        *(("neg", "float32", size) for size in (many, few)),
        *(("neg", "bfloat16", size) for size in (2 * many, 2 * few)),
        ("add", "float32", many),
        ("add", "float16", 2 * few),
    ):
        yield Point("copy", operator, dtype, (size,))
    for operator, dtype, size in (
        *(("gelu", "float32", size) for size in (few, many)),
        *(("gelu", "bfloat16", 2 * size) for size in (few, many)),
        ("gelu", "float16", 2 * few),
        ("relu", "float16", 2 * many),
        ("sigmoid", "float32", few),
        ("tanh", "bfloat16", 2 * few),
    ):
        yield Point("elementwise", operator, dtype, (size,))


def _products(cache: float, device: Device) -> Iterable[Point]:
    """Square products whose operands fill a sixth of the cache each, or more than all of it; batches, flat ones, and one on few cores."""
    for dtype in ("float32", "float16", "bfloat16", "int8", "float8_e4m3fn"):
        if dtype in _UNITS and _UNITS[dtype] not in device.coefficients:
            continue
        item = item_bytes(dtype) or 1.0
        inside, outside, far = (_side(share * cache / item) for share in (1 / 6, 1.3, 4.0))
        yield Point("matmul", "matmul", dtype, (1, outside, outside, outside))
        yield Point("matmul", "matmul", dtype, (1, inside, inside, inside))
        if dtype in ("float16", "bfloat16"):
            yield Point("matmul", "matmul", dtype, (1, 32, far, far))
        if dtype in ("float32", "bfloat16"):
            yield Point("matmul", "matmul", dtype, (1, _STEP, 128 * _STEP, _STEP), timed=False)
        if dtype == "float16":
            yield Point("matmul", "matmul", dtype, (24, 512, 512, 512))


_UNITS = {"int8": "flop.int8.tensor", "float8_e4m3fn": "flop.float8.tensor"}


def _repeated(point: Point, device: Device) -> Point:
    """As often as fills `CALL_SECONDS` by the profile's roofline."""
    seconds = point.cost(device).seconds
    return replace(point, repeats=max(1, min(MOST_REPEATS, ceil(CALL_SECONDS / max(seconds, 1e-9)))))


def _found(points: Iterable[Point], family: str, dtype: str) -> Point:
    return next(point for point in points if (point.family, point.dtype) == (family, dtype))


def _paused(point: Point, device: Device) -> Point:
    return replace(point, pause=point.repeats * point.cost(device).seconds, timed=False)


def _elements(size: float) -> int:
    """How many float32 fill `size` bytes, in whole rows of 4096."""
    return max(1, int(size / 4 / 4096)) * 4096


def _side(elements: float) -> int:
    return max(1, isqrt(int(elements)) // _STEP) * _STEP


_Shapes = tuple[list[tuple[int, ...]], tuple[int, ...], dict[str, Any]]
"""The shapes of the operands, that of the result, and the attributes of the op."""


def _same(shape: tuple[int, ...]) -> _Shapes:
    return [shape], shape, {}


def _product(shape: tuple[int, ...]) -> _Shapes:
    batch, rows, inner, columns = shape
    lead = (batch,) if batch > 1 else ()
    return [(*lead, rows, inner), (*lead, inner, columns)], (*lead, rows, columns), {}


def _window(shape: tuple[int, ...]) -> _Shapes:
    images, channels, height, width, outputs, kernel = shape
    result = (images, outputs, height - kernel + 1, width - kernel + 1)
    attributes: dict[str, Any] = {"strides": [1, 1], "dilations": [1, 1], "groups": 1, "transposed": False}
    return [(images, channels, height, width), (outputs, channels, kernel, kernel)], result, attributes


def _reduced(shape: tuple[int, ...]) -> _Shapes:
    return [shape], shape[:1], {"axes": [-1], "keepdims": False}


_KINDS = {
    **{name: name for name in ("neg", "relu", "gelu", "sigmoid", "tanh", "add", "softmax", "layer_norm", "matmul", "conv")},
    "sum": "reduce_sum",
    "attention": "attention",
    "causal_attention": "attention",
}
"""Operators of points, and the kind of op each is."""

_SHAPES: dict[str, Callable[[tuple[int, ...]], _Shapes]] = {
    **dict.fromkeys(("neg", "relu", "gelu", "sigmoid", "tanh", "softmax", "layer_norm"), _same),
    "add": lambda shape: ([shape, shape], shape, {}),
    "sum": _reduced,
    "matmul": _product,
    "conv": _window,
    "attention": lambda shape: ([shape] * 3, shape, {}),
    "causal_attention": lambda shape: ([shape] * 3, shape, {"is_causal": True}),
}
