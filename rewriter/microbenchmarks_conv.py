"""Microbenchmarks of convolutions, pools and the layouts around them in onnxruntime, whose optimiser runs them in blocks of channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .microbenchmark_graph import Chain, Microbenchmark, repeats

_MS, _BLOCKED = "com.microsoft::", "com.microsoft.nchwc::"

# Batch, channels in, channels out, height and width.
_POINTWISE = (
    (1, 16, 64, 112), (1, 32, 128, 56), (1, 48, 240, 28), (1, 80, 480, 14), (1, 112, 640, 14), (1, 192, 960, 7), (4, 192, 960, 7),
    (4, 32, 160, 56), (1, 384, 192, 20), (1, 96, 96, 80), (1, 64, 64, 40), (2, 48, 96, 96), (1, 768, 384, 10), (8, 96, 32, 28),
    (1, 256, 256, 30), (1, 512, 512, 7), (1, 32, 16, 160), (8, 64, 128, 56), (16, 128, 128, 14), (1, 96, 48, 160),
)  # fmt: skip
# Batch, channels, height and width, kernel, stride.
_DEPTHWISE = (
    (1, 32, 112, 3, 1), (1, 64, 112, 3, 2), (1, 128, 56, 3, 1), (1, 256, 28, 5, 1), (1, 480, 14, 3, 1), (1, 640, 14, 5, 1),
    (1, 960, 7, 5, 1), (4, 128, 56, 5, 2), (4, 96, 80, 7, 1), (1, 96, 80, 7, 1), (4, 192, 40, 3, 1), (1, 384, 20, 5, 1), (1, 64, 24, 3, 2),
    (8, 96, 112, 3, 2), (8, 128, 56, 3, 1), (8, 480, 14, 5, 1), (2, 64, 160, 3, 1), (8, 640, 14, 3, 1),
)  # fmt: skip
# Batch, channels in, channels out, height and width, kernel, stride.
_DIRECT = (
    (1, 16, 16, 112, 3, 1), (1, 32, 32, 80, 3, 1), (1, 96, 32, 80, 3, 1), (1, 48, 32, 160, 3, 2), (1, 64, 64, 56, 3, 1),
    (1, 128, 128, 28, 3, 1), (1, 256, 256, 14, 3, 1), (4, 64, 64, 28, 3, 1), (1, 512, 512, 7, 3, 1), (1, 48, 48, 60, 5, 1),
    (1, 32, 32, 100, 2, 1), (2, 128, 64, 40, 3, 2), (1, 16, 32, 240, 2, 1), (4, 32, 64, 80, 3, 2), (1, 64, 128, 56, 1, 2),
)  # fmt: skip
_IMAGE = (
    (1, 32, 224, 3, 2),
    (4, 32, 224, 3, 2),
    (1, 16, 320, 3, 2),
    (1, 64, 224, 7, 2),
    (1, 32, 128, 3, 1),
    (1, 16, 48, 3, 1),
    (8, 32, 192, 3, 2),
)
# Batch, channels in, channels out, length, kernel.
_GEMM = (
    (1, 128, 128, 4, 3), (8, 128, 128, 4, 3), (1, 128, 64, 64, 3), (1, 64, 64, 512, 5), (8, 80, 96, 300, 3), (1, 256, 256, 100, 9),
    (4, 512, 512, 200, 3), (1, 20, 30, 1000, 3), (16, 32, 32, 8, 3), (1, 64, 64, 1, 3), (8, 64, 64, 2, 3),
)  # fmt: skip
_FRAMES = ((1, 256, 640, 256, 64), (8, 256, 640, 256, 64), (1, 400, 16000, 400, 160))
_TRANSPOSED = (
    (1, 24, 24, 80, 2),
    (1, 16, 16, 40, 3),
    (1, 64, 32, 28, 4),
    (2, 24, 8, 60, 2),
    (1, 24, 24, 200, 2),
    (2, 16, 1, 160, 2),
)
# Batch, channels, height and width.
_MAPS = (
    (1, 16, 14),
    (1, 96, 28),
    (1, 48, 80),
    (1, 48, 160),
    (4, 192, 40),
    (1, 768, 10),
    (4, 96, 112),
    (1, 24, 200),
    (8, 64, 56),
)
_INTEGER = (
    (1, 32, 64, 28, 1, 1), (1, 96, 96, 28, 3, 96), (1, 32, 32, 40, 3, 1), (1, 192, 192, 14, 1, 1), (4, 96, 32, 28, 1, 1),
    (1, 256, 256, 14, 3, 256), (1, 64, 64, 80, 1, 1), (1, 16, 64, 112, 1, 1), (4, 128, 128, 14, 3, 1), (2, 384, 384, 10, 5, 384),
    (1, 480, 112, 14, 1, 1), (1, 64, 64, 56, 3, 64), (1, 32, 32, 112, 3, 32), (4, 96, 96, 56, 3, 96), (1, 640, 640, 14, 5, 640),
)  # fmt: skip


def convolution_microbenchmarks() -> Iterator[Microbenchmark]:
    """All of them, one at a time."""
    for n, a, b, h in _POINTWISE:
        yield _there_and_back("conv.pointwise", n, a, b, h, 1)
    for n, a, b, h, k, stride in _DIRECT:
        yield _there_and_back("conv.direct", n, a, b, h, k) if stride == 1 else _parallel("conv.direct", n, a, b, h, k, stride)
    for n, c, h, k, stride in _DEPTHWISE:
        yield _parallel("conv.depthwise", n, c, c, h, k, stride, groups=c)
    for n, c, h, k, stride in _IMAGE:
        yield _image(n, c, h, k, stride)
    for n, a, b, length, k in _GEMM:
        yield _unfolded(n, a, b, length, k)
    for n, c, length, k, stride in _FRAMES:
        chain = Chain()
        x = chain.input(n, 1, length)
        made = [chain.node("Conv", x, chain.weight(c, 1, k), kernel_shape=[k], strides=[stride]) for _ in range(4)]
        yield chain.done("conv.gemm", f"frames {n}x{c}x{length}x{k}", chain.summed(made))
    for n, a, b, h, k in _TRANSPOSED:
        chain = Chain()
        x = chain.input(n, a, h, h)
        made = [chain.node("ConvTranspose", x, chain.weight(a, b, k, k), kernel_shape=[k, k], strides=[2, 2]) for _ in range(2)]
        yield chain.done("conv.transposed", f"{n}x{a}x{b}x{h}x{k}", chain.summed(made))
    for n, a, b, h, k, groups in _INTEGER:
        yield _integer(n, a, b, h, k, groups)
    for n, c, h in _MAPS:
        yield from _layouts(n, c, h)


def _window(k: int, stride: int = 1, groups: int = 1) -> dict[str, Any]:
    return {"kernel_shape": [k, k], "strides": [stride, stride], "pads": [k // 2] * 4, "group": groups}


def _there_and_back(kernel: str, n: int, a: int, b: int, h: int, k: int) -> Microbenchmark:
    chain = Chain()
    x = chain.node(f"{_BLOCKED}ReorderInput", chain.input(n, a, h, h))
    pairs = repeats(4.0 * n * a * b * h * h * k * k, 8e8, most=10)
    for c, d in [(a, b), (b, a)] * pairs:
        x = chain.node(f"{_BLOCKED}Conv", x, chain.weight(d, c, k, k), chain.weight(d), **_window(k), activation="Relu")
    return chain.done(kernel, f"{n}x{a}x{b}x{h} k{k} {pairs}", x)


def _parallel(kernel: str, n: int, a: int, b: int, h: int, k: int, stride: int, groups: int = 1) -> Microbenchmark:
    chain = Chain()
    x = chain.node(f"{_BLOCKED}ReorderInput", chain.input(n, a, h, h))
    count = repeats(2.0 * n * b * (h // stride) ** 2 * (a // groups) * k * k + 20.0 * n * a * h * h, 4e8, most=8)
    made = []
    for _ in range(count):
        weights = chain.weight(b, a // groups, k, k), chain.weight(b)
        y = chain.node(f"{_BLOCKED}Conv", x, *weights, **_window(k, stride, groups), activation="Relu")
        made.append(y)
        x = y if groups > 1 and stride == 1 else x
    last = x if groups > 1 and stride == 1 else chain.summed(made)
    return chain.done(kernel, f"{n}x{a}x{b}x{h} k{k} s{stride} {count}", last)


def _image(n: int, c: int, h: int, k: int, stride: int) -> Microbenchmark:
    chain = Chain()
    x = chain.input(n, 3, h, h)
    made = [chain.node(f"{_BLOCKED}Conv", x, chain.weight(c, 3, k, k), chain.weight(c), **_window(k, stride)) for _ in range(2)]
    return chain.done("conv.image", f"{n}x3x{c}x{h} k{k} s{stride}", chain.summed(made))


def _unfolded(n: int, a: int, b: int, length: int, k: int) -> Microbenchmark:
    chain = Chain()
    x = chain.input(n, a, length)
    pairs = repeats(4.0 * n * a * b * length * k, 3e8, most=6)
    for c, d in [(a, b), (b, a)] * pairs:
        options: dict[str, Any] = {"kernel_shape": [k], "strides": [1], "pads": [k // 2, k // 2], "activation": "Relu"}
        x = chain.node(f"{_MS}FusedConv", x, chain.weight(d, c, k), chain.weight(d), **options)
    return chain.done("conv.gemm", f"{n}x{a}x{b}x{length} k{k} {pairs}", x)


def _integer(n: int, a: int, b: int, h: int, k: int, groups: int) -> Microbenchmark:
    chain = Chain()
    x, zero = chain.input(n, a, h, h, dtype="uint8", high=255), chain.weight(1, dtype="uint8")
    made = []
    for _ in range(3):
        weight = chain.weight(b, a // groups, k, k, dtype="uint8", high=255)
        made.append(chain.node("Cast", chain.node("ConvInteger", x, weight, zero, zero, **_window(k, 1, groups)), to=1))
    return chain.done("conv_integer", f"{n}x{a}x{b}x{h} k{k} g{groups}", chain.summed(made))


def _layouts(n: int, c: int, h: int) -> Iterator[Microbenchmark]:
    shape, count = f"{n}x{c}x{h}", repeats(16.0 * n * c * h * h, 3e7, most=8)
    chain = Chain()
    x = chain.input(n, c, h, h)
    for _ in range(count):
        x = chain.node(f"{_BLOCKED}ReorderOutput", chain.node(f"{_BLOCKED}ReorderInput", x), channels=c)
    yield chain.done("reorder", f"{shape} {count}", x)
    for blocked in (False, True):
        for operator, kernel in (("GlobalAveragePool", 0), ("MaxPool", 3), ("AveragePool", 3), ("AveragePool", 2)):
            chain = Chain()
            x = chain.input(n, c, h, h)
            name = f"{_BLOCKED}{operator}" if blocked else operator
            x = chain.node(f"{_BLOCKED}ReorderInput", x) if blocked else x
            options: dict[str, Any] = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4} if kernel else {}
            last = chain.summed([chain.node(name, x, **options) for _ in range(3)])
            yield chain.done("pool", f"{operator}{kernel} {shape} {'blocked' if blocked else ''}", last)
    chain = Chain()
    scales = chain.constant([1, 1, 2, 2], "float32")
    nearest: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    x = chain.input(n, c, h, h)
    yield chain.done("resize", shape, chain.summed([chain.node("Resize", x, "", scales, **nearest) for _ in range(3)]))
