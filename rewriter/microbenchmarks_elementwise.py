"""Microbenchmarks of everything that is bound by bytes or by calls in onnxruntime: elementwise ops, norms, copies, shapes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from .microbenchmark_graph import Chain, Microbenchmark, repeats

_MS = "com.microsoft::"
# Two at least for each level that numbers may fit: one lap on a busy machine would else be a law.
_SIZES = (32, 2_000, 20_000, 120_000, 500_000, 1_200_000, 5_000_000, 10_000_000)
_FEW = (32, 20_000, 500_000, 1_200_000, 5_000_000)
_UNARY = {
    **dict.fromkeys(("Sigmoid", "Gelu"), _SIZES),
    **dict.fromkeys(
        ("Relu", "Clip", "HardSigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Neg", "Reciprocal", f"{_MS}QuickGelu"), _FEW
    ),
    **dict.fromkeys(("Sin", "Cos", "Abs", "Log", "LeakyRelu", "Softplus", "Elu", "Floor", "HardSwish", "Identity"), _FEW[:4]),
}
_BINARY = {"Add": _SIZES, "Mul": _SIZES, "Sub": _FEW, "Div": _FEW, "Max": _FEW[:4], "Min": _FEW[:4]}
# Rows, width.
_ROWS = ((2, 128), (16, 320), (128, 320), (1024, 320), (512, 640), (2048, 640), (64, 1024), (4096, 768), (256, 4096))
_SCORES = (
    (12, 16, 16),
    (12, 128, 128),
    (96, 128, 128),
    (12, 400, 400),
    (9, 1500, 1500),
    (1, 64, 18000),
    (1, 40, 1000),
    (1, 300, 60),
)
# Batch, tokens, heads, head size.
_HEADS = (
    (1, 16, 12, 32),
    (1, 128, 12, 32),
    (8, 128, 12, 32),
    (1, 512, 8, 64),
    (1, 2048, 8, 64),
    (4, 64, 3, 64),
    (16, 256, 8, 32),
)
# Rows of the table, width, rows that are read.
_TABLES = (
    (30000, 320, 16),
    (30000, 320, 1024),
    (50000, 640, 512),
    (512, 320, 128),
    (2000, 1024, 2048),
    (30000, 768, 128),
    (20000, 64, 64),
)
_CASTS = ("float16", "int64", "bool", "int32")
_CALLS = (4, 40, 160)
_BUDGET = 4e7


def elementwise_microbenchmarks() -> Iterator[Microbenchmark]:
    """All of them, one at a time."""
    for operator, sizes in _UNARY.items():
        for size in sizes:
            yield _unary(operator, size)
    for operator, sizes in _BINARY.items():
        for size in sizes:
            yield _binary(operator, (size,), (size,))
        yield _binary(operator, (200_000,), ())
        for rows, width in _ROWS[:6:2] + _ROWS[5:8]:
            yield _binary(operator, (rows, width), (width,))
            yield _binary(operator, (rows, width), (rows, 1))
    for scores in _SCORES[:5]:
        yield _binary("Add", (1, *scores), (1, 1, *scores[1:]))
        yield from _masked(scores)
    for size in _FEW:
        yield _pow(size)
        yield from _compared(size)
        yield from (_cast(other, size) for other in _CASTS)
    for rows, width in _ROWS:
        yield from _rows(rows, width)
    for heads, rows, width in _SCORES:
        yield _repeated("softmax", "Softmax", (heads, rows, width), axis=-1)
    yield from _copies()
    for count in _CALLS:
        yield from _calls(count)


def _count(shape: tuple[int, ...], most: int = 12) -> int:
    # Of small ops more, or the cost of the run would be most of what is timed.
    return repeats(8.0 * prod(shape), _BUDGET, most=most if prod(shape) > 4_000 else 5 * most)


def _repeated(kernel: str, operator: str, shape: tuple[int, ...], *weights: int, **attributes: Any) -> Microbenchmark:
    chain = Chain()
    x, count = chain.input(*shape), _count(shape)
    for _ in range(count):
        x = chain.node(operator, x, *(chain.weight(size) for size in weights), **attributes)
    return chain.done(kernel, f"{operator} {shape} {count}", x)


def _unary(operator: str, size: int) -> Microbenchmark:
    return _repeated("unary", operator, (size,))


def _binary(operator: str, shape: tuple[int, ...], other: tuple[int, ...]) -> Microbenchmark:
    chain = Chain()
    x, y, count = chain.input(*shape), chain.input(*other), _count(shape)
    for _ in range(count):
        x = chain.node(operator, x, y)
    return chain.done("binary", f"{operator} {shape} {other} {count}", x)


def _masked(scores: tuple[int, ...]) -> Iterator[Microbenchmark]:
    count, zero = _count(scores, 8), np.float32(0)
    chain = Chain()
    x = chain.input(1, *scores)
    for _ in range(count):
        x = chain.node("Where", chain.node("IsNaN", x), chain.constant(zero), x)
    yield chain.done("where", f"nan {scores} {count}", x)
    for mask in ((1, 1, *scores[1:]), (1, *scores)):
        chain = Chain()
        x, keep = chain.input(1, *scores), chain.input(*mask, dtype="bool")
        for _ in range(count):
            x = chain.node("Where", keep, x, chain.constant(zero))
        yield chain.done("where", f"{mask} {scores} {count}", x)


def _compared(size: int) -> Iterator[Microbenchmark]:
    chain = Chain()
    x, y = chain.input(size), chain.input(size)
    made = [chain.node("Greater", x, y) for _ in range(_count((size,), 6))]
    for other in made[1:]:
        made[0] = chain.node("And", made[0], other)
    yield chain.done("compare", f"greater {size}", chain.node("Not", made[0]))
    chain = Chain()
    x, y = chain.input(16, size // 16), chain.input(size // 16)
    made = [chain.node("LessOrEqual", x, y) for _ in range(_count((size,), 6))]
    for other in made[1:]:
        made[0] = chain.node("Or", made[0], other)
    yield chain.done("compare", f"less {size}", made[0])


def _pow(size: int) -> Microbenchmark:
    chain = Chain()
    x = chain.input(size)
    for _ in range(_count((size,))):
        x = chain.node("Pow", x, chain.constant(np.float32(2)))
    return chain.done("pow", f"{size}", x)


def _cast(other: str, size: int) -> Microbenchmark:
    chain, codes = Chain(), {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10}
    x = chain.input(size)
    for _ in range(_count((size,), 8)):
        x = chain.node("Cast", chain.node("Cast", x, to=codes[other]), to=codes["float32"])
        # onnxruntime drops a cast there and back that loses nothing, its optimiser on or off.
        x = chain.node("Neg", x) if other in ("bool", "float16") else x
    return chain.done("cast", f"float32 {other} {size}", x)


def _rows(rows: int, width: int) -> Iterator[Microbenchmark]:
    shape = (1, rows, width)
    yield _repeated("layer_norm", "LayerNormalization", shape, width, width, axis=-1)
    yield _repeated("rms_norm", "SimplifiedLayerNormalization", shape, width, axis=-1)
    yield _repeated("gelu.bias", f"{_MS}BiasGelu", shape, width)
    chain = Chain()
    x, y = chain.input(*shape), chain.input(*shape)
    for _ in range(_count(shape)):
        x = chain.node(f"{_MS}SkipLayerNormalization", x, y, *(chain.weight(width) for _ in range(3)))
    yield chain.done("skip_layer_norm", f"{shape}", x)
    chain = Chain()
    x, scale, zero = chain.input(*shape), chain.constant(np.float32(0.02)), chain.constant(np.uint8(128))
    made = [chain.node("QuantizeLinear", x, scale, zero) for _ in range(8)]
    yield chain.done("quantize_linear", f"{shape}", made[-1])
    chain = Chain()
    x = chain.input(*shape)
    for _ in range(4):
        x = chain.node("DequantizeLinear", *chain.node("DynamicQuantizeLinear", x, outputs=3))
    yield chain.done("dynamic_quantize_linear", f"{shape}", x)
    chain = Chain()
    x, scale, zero = chain.input(*shape), chain.constant(np.float32(0.02)), chain.constant(np.uint8(128))
    for _ in range(4):
        x = chain.node("DequantizeLinear", chain.node("QuantizeLinear", x, scale, zero), scale, zero)
    yield chain.done("dequantize_linear", f"{shape}", x)
    chain = Chain()
    x = chain.input(*shape)
    made = [chain.node("ReduceMean", x, chain.constant([-1], "int64"), keepdims=1) for _ in range(4)]
    made += [chain.node("ReduceSum", x, chain.constant([-1], "int64"), keepdims=1) for _ in range(4)]
    yield chain.done("reduce", f"{shape} last", chain.summed(made))
    chain = Chain()
    x = chain.input(2, 16, rows, width)
    made = [chain.node("ReduceMean", x, chain.constant([2, 3], "int64"), keepdims=1) for _ in range(2)]
    yield chain.done("reduce", f"{shape} maps", chain.summed(made))


def _copies() -> Iterator[Microbenchmark]:
    for b, t, h, d in _HEADS:
        for shape, order in (((b, t, h, d), [0, 2, 1, 3]), ((b * h, t, d), [0, 2, 1]), ((b, h * 2, t, 8), [0, 2, 3, 1])):
            chain = Chain()
            x, back = chain.input(*shape), list(np.argsort(order))
            for _ in range(_count(shape, 6)):
                x = chain.node("Transpose", chain.node("Transpose", x, perm=order), perm=back)
            yield chain.done("transpose", f"{shape} {order}", x)
        chain = Chain()
        shape, half = (b, h, t, d), chain.constant([d // 2, d // 2], "int64")
        x = chain.input(*shape)
        for _ in range(_count(shape, 6)):
            left, right = chain.node("Split", x, half, outputs=2, axis=-1)
            x = chain.node("Concat", right, left, axis=-1)
        yield chain.done("split", f"{shape} split", x)
        chain = Chain()
        x = chain.input(*shape)
        begin, middle, end, axis = (chain.constant([value], "int64") for value in (0, d // 2, d, 3))
        for _ in range(_count(shape, 6)):
            left, right = chain.node("Slice", x, begin, middle, axis), chain.node("Slice", x, middle, end, axis)
            x = chain.node("Concat", right, left, axis=-1)
        yield chain.done("slice", f"{shape} slice", x)
        chain = Chain()
        x = chain.input(b, h, 1, t, d)
        made = [chain.node("Expand", x, chain.constant([b, h, 3, t, d], "int64")) for _ in range(3)]
        yield chain.done("expand", f"{b}x{h}x3x{t}x{d}", chain.summed(made))
        chain = Chain()
        x = chain.input(b, h, t, d)
        made = [chain.node("Pad", x, chain.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64")) for _ in range(3)]
        yield chain.done("pad", f"{b}x{h}x{t}x{d}", chain.summed(made))
        chain = Chain()
        x = chain.input(b * h, t, d)
        made = [chain.node("Gather", x, chain.constant(0, "int64"), axis=1) for _ in range(6)]
        yield chain.done("gather", f"{b * h}x{t}x{d} row", chain.first_rows(made))
    for rows, width, count in _TABLES:
        chain = Chain()
        index, table = chain.input(count, dtype="int64", high=rows), chain.weight(rows, width)
        made = [chain.node("Gather", table, index) for _ in range(6)]
        yield chain.done("embedding", f"{rows}x{width} {count}", chain.first_rows(made))


def _calls(count: int) -> Iterator[Microbenchmark]:
    """What costs a call and nothing else: names of shapes, sizes, small integers."""
    chain = Chain()
    x = chain.input(2, 3)
    for _ in range(count):
        x = chain.node("Reshape", chain.node("Reshape", x, chain.constant([6], "int64")), chain.constant([2, 3], "int64"))
    yield chain.done("reshape", f"reshape {count}", x)
    chain = Chain()
    x = chain.input(2, 3)
    for _ in range(count):
        x = chain.node("Squeeze", chain.node("Unsqueeze", x, chain.constant([0], "int64")), chain.constant([0], "int64"))
    yield chain.done("squeeze", f"squeeze {count}", x)
    chain = Chain()
    x, size = chain.input(2, 3, 4), chain.input(1, dtype="int64")
    for _ in range(count):
        size = chain.node("Add", size, chain.node("Gather", chain.node("Shape", x), chain.constant([0], "int64")))
    yield chain.done("shape", f"{count}", size)
    chain = Chain()
    x, yes = chain.input(8, 16), chain.input(1, dtype="bool")
    for _ in range(count):
        x = chain.branch(yes, x)
    yield chain.done("if", f"{count}", x)
    chain = Chain()
    x = chain.scan(chain.input(8 * count, 8, 16))
    yield chain.done("scan", f"{8 * count}", x)
