"""Microbenchmarks of matrix products, attention and recurrence in onnxruntime: sizes x reuse of weights x number format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .microbenchmark_graph import Chain, Microbenchmark, repeats

_MS = "com.microsoft::"
_BLOCK = 32

# Rows, inputs, outputs. The second list repeats until the weights exceed any cache.
_PRODUCTS = (
    (1, 64, 64), (1, 320, 320), (1, 512, 2048), (1, 1024, 4096), (4, 256, 1024), (8, 640, 1280), (16, 320, 320), (16, 320, 1280),
    (32, 128, 512), (48, 768, 768), (64, 192, 192), (128, 320, 320), (128, 512, 2048), (160, 100, 70), (200, 640, 160), (256, 64, 64),
    (512, 640, 1280), (512, 768, 768), (768, 320, 1280), (1024, 128, 256), (2048, 512, 1024), (300, 33, 1000), (20, 2048, 2048),
    (2048, 64, 512), (2, 1024, 24000),
)  # fmt: skip
_COLD_PRODUCTS = (
    (1, 1024, 1024),
    (2, 640, 1280),
    (8, 768, 3072),
    (16, 320, 1280),
    (64, 1024, 1024),
    (128, 512, 2048),
    (1, 4096, 1024),
)
_COLD_BYTES = 96e6
_QUANTISED = (
    (1, 320, 320), (1, 1024, 2048), (16, 320, 1280), (16, 1024, 1024), (128, 320, 320), (128, 512, 2048), (512, 640, 1280),
    (1024, 320, 320), (1024, 512, 1280), (48, 768, 768), (256, 96, 320),
)  # fmt: skip
# Batch x heads, queries, head size, keys.
_ACTIVATIONS = (
    (12, 16, 32, 16), (8, 64, 64, 64), (12, 128, 32, 128), (64, 128, 32, 128), (8, 200, 80, 200), (8, 512, 64, 512), (16, 512, 32, 512),
    (8, 1024, 64, 1024), (6, 2048, 64, 2048), (1, 128, 64, 128), (16, 1, 64, 800), (4, 300, 48, 40),
)  # fmt: skip
# Batch, tokens, heads, head size.
_ATTENTION = (
    (1, 16, 12, 32), (1, 128, 12, 32), (8, 128, 12, 32), (1, 512, 12, 32), (1, 512, 8, 64), (1, 2048, 6, 64), (4, 256, 8, 64),
    (2, 128, 16, 64), (16, 64, 4, 32), (1, 1024, 8, 64),
)  # fmt: skip
# Steps, batch, inputs, hidden.
_RECURRENT = ((1, 1, 128, 128), (1, 8, 128, 128), (32, 1, 64, 64), (20, 8, 256, 256), (1, 1, 512, 512), (64, 4, 128, 96))


def dense_microbenchmarks() -> Iterator[Microbenchmark]:
    """All of them, one at a time: the weights of one are gone when the next is made."""
    for m, k, n in _PRODUCTS:
        yield _product(m, k, n, repeats(4.0 * m * k * n + 80.0 * k * n, 2e9, most=12))
    for m, k, n in _COLD_PRODUCTS:
        yield _product(m, k, n, int(_COLD_BYTES / (8 * k * n)))
    for b, m, d, n in _ACTIVATIONS:
        for transposed in (False, True):
            yield _activations(b, m, d, n, transposed)
    for b, t, h, d in _ATTENTION:
        yield from (_attention(b, t, h, d, biased) for biased in (False, True))
    for t, b, i, h in _RECURRENT:
        yield _recurrent(t, b, i, h)
    for m, k, n in _QUANTISED:
        for dtype in ("int8", "uint8"):
            yield from (make(m, k, n, dtype) for make in (_static, _dynamic, _integer))
        yield from (_few_bits(m, k, n, bits, level) for bits, level in ((4, 4), (8, 4), (4, 0), (8, 0)))


def _product(m: int, k: int, n: int, pairs: int) -> Microbenchmark:
    chain = Chain()
    x = chain.input(m, k)
    for _ in range(pairs):
        x = chain.node("MatMul", chain.node("MatMul", x, chain.weight(k, n)), chain.weight(n, k))
    return chain.done("matmul", f"{m}x{k}x{n} {pairs}", x)


def _activations(b: int, m: int, d: int, n: int, transposed: bool) -> Microbenchmark:
    chain = Chain()
    x, key, value = chain.input(b, m, d), chain.input(b, *((n, d) if transposed else (d, n))), chain.input(b, n, d)
    count = repeats(4.0 * b * m * d * n, 1e9, most=8)
    for _ in range(count):
        x = chain.node("MatMul", chain.node(f"{_MS}FusedMatMul", x, key, transB=int(transposed), alpha=0.01), value)
    return chain.done("matmul.activations", f"{b}x{m}x{d}x{n} {count} {transposed}", x)


def _attention(b: int, t: int, h: int, d: int, biased: bool) -> Microbenchmark:
    chain = Chain()
    x, key, value = (chain.input(b, t, h * d) for _ in range(3))
    more = ("", "", chain.input(b, 1, t, t)) if biased else ()
    count = repeats(4.0 * b * h * t * t * d, 8e8, most=4)
    for _ in range(count):
        x = chain.node(f"{_MS}MultiHeadAttention", x, key, value, *more, num_heads=h)
    return chain.done("attention", f"{b}x{t}x{h}x{d} {count} {biased}", x)


def _recurrent(t: int, b: int, i: int, h: int) -> Microbenchmark:
    chain = Chain()
    x, hidden, cell = chain.input(t, b, i), chain.input(1, b, h), chain.input(1, b, h)
    for _ in range(4):
        weights = chain.weight(1, 4 * h, i), chain.weight(1, 4 * h, h), chain.weight(1, 8 * h)
        _, hidden, cell = chain.node("LSTM", x, *weights, "", hidden, cell, outputs=3, hidden_size=h)
    return chain.done("lstm", f"{t}x{b}x{i}x{h}", hidden)


def _scale(chain: Chain, size: int) -> str:
    return chain.constant(np.full(size, 0.01, np.float32))


def _static(m: int, k: int, n: int, dtype: str) -> Microbenchmark:
    chain = Chain()
    x, scale, zero = chain.input(m, k), chain.constant(np.float32(0.02)), chain.constant(np.uint8(128))
    pairs = repeats(4.0 * m * k * n + 40.0 * k * n, 3e9, most=8)
    for a, b in [(k, n), (n, k)] * pairs:
        small = chain.node("QuantizeLinear", x, scale, zero)
        zeros = chain.constant(np.zeros(b, dtype))
        x = chain.node(
            f"{_MS}MatMulIntegerToFloat", small, chain.weight(a, b, dtype=dtype), scale, _scale(chain, b), zero, zeros
        )
    return chain.done("matmul_integer.static", f"{m}x{k}x{n} {pairs} {dtype}", x)


def _dynamic(m: int, k: int, n: int, dtype: str) -> Microbenchmark:
    chain = Chain()
    x = chain.input(m, k)
    pairs = repeats(4.0 * m * k * n + 40.0 * k * n, 3e9, most=8)
    for a, b in [(k, n), (n, k)] * pairs:
        zeros = chain.constant(np.zeros(b, dtype))
        x = chain.node(f"{_MS}DynamicQuantizeMatMul", x, chain.weight(a, b, dtype=dtype), _scale(chain, b), zeros)
    return chain.done("matmul_integer.dynamic", f"{m}x{k}x{n} {pairs} {dtype}", x)


def _integer(m: int, k: int, n: int, dtype: str) -> Microbenchmark:
    chain = Chain()
    x, zero = chain.input(m, k, dtype="uint8", high=255), chain.constant(np.uint8(128))
    count = repeats(2.0 * m * k * n + 20.0 * k * n, 3e9, most=8)
    outputs = [chain.node("MatMulInteger", x, chain.weight(k, n, dtype=dtype), zero) for _ in range(count)]
    return chain.done(
        "matmul_integer", f"{m}x{k}x{n} {count} {dtype}", chain.summed([chain.node("Cast", y, to=1) for y in outputs])
    )


def _few_bits(m: int, k: int, n: int, bits: int, level: int) -> Microbenchmark:
    chain = Chain()
    x = chain.input(m, k)
    pairs = repeats(4.0 * m * k * n + 40.0 * k * n, 2e9 if level else 1e9, most=8)
    for a, b in [(k, n), (n, k)] * pairs:
        packed = chain.weight(b, a // _BLOCK, _BLOCK * bits // 8, dtype="uint8", high=255)
        scales = chain.weight(b * (a // _BLOCK))
        options = {"K": a, "N": b, "bits": bits, "block_size": _BLOCK, "accuracy_level": level}
        x = chain.node(f"{_MS}MatMulNBits", x, packed, scales, **options)
    return chain.done(f"matmul_nbits.{bits}bits.level{level}", f"{m}x{k}x{n} {pairs}", x)
