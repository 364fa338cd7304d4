"""What the steps of a causal spectral attention in ONNX read: keys and values by neighbours and by content, and the moments of tiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .causal import POWER_STEPS, Layout
from .onnx_builder import Builder

TINY = float(np.finfo(np.float32).tiny)
ENDLESS = np.iinfo(np.int64).max


class Tables(NamedTuple):
    """Keys and values [B, Hkv, P, .] in one order; of their tiles, the means of keys [B, Hkv, D, P / key tile], of values [B, Hkv,
    P / key tile, Dv] and the variance of keys [B, Hkv, D, P / key tile]; and centred k^T v summed over pieces of so many rows
    [B, Hkv, pieces, D * Dv]."""

    keys: ir.Value
    values: ir.Value
    means: ir.Value
    value_means: ir.Value
    variances: ir.Value
    sums: ir.Value


def by_content(
    build: Builder, keys: ir.Value, values: ir.Value, width: ir.Value, depth: ir.Value, layout: Layout
) -> tuple[ir.Value, ir.Value]:
    """Keys and values behind the sink, each segment in the order of its tiles: `causal.key_tiles`."""
    sink, size = layout.sink, layout.segment
    clustered = [build("Slice", x, build.sizes(sink), build.sizes(ENDLESS), build.sizes(2)) for x in (keys, values)]
    rows = build.reshape(clustered[0], -1, size, width)
    order = None
    while size > layout.key_tile:
        centred = build("Sub", rows, _mean(build, rows, 1, size))
        covariance = build("MatMul", build("Transpose", centred, perm=(0, 2, 1)), centred)
        diagonal = build("Mul", build.range(width), build("Add", width, build.sizes(1)))
        spread = build("Gather", build.reshape(covariance, 0, -1), diagonal, axis=1)
        axis = build("OneHot", build("ArgMax", spread, axis=1, keepdims=0), width, build.array(np.array([0, 1], np.float32)))
        direction = build("MatMul", covariance, build.unsqueeze(axis, 2))
        for _ in range(POWER_STEPS):
            norm = build("ReduceSum", build("Mul", direction, direction), build.sizes(1), keepdims=1)
            norm = build("Max", build("Sqrt", norm), build.float(TINY))
            direction = build("MatMul", covariance, build("Div", direction, norm))
        along = build("Squeeze", build("MatMul", rows, direction), build.sizes(2))
        sorted_ = build("TopK", along, build.sizes(size), axis=1, largest=0, outputs=2)[1]
        node = build("Mul", build.range(build("Shape", rows, start=0, end=1)), build.sizes(size))
        places = build.reshape(build("Add", sorted_, build.unsqueeze(node, 1)), -1)
        order = places if order is None else build("Gather", order, places)
        size //= 2
        rows = build.reshape(build("Gather", build.reshape(rows, -1, width), places), -1, size, width)
    if order is None:
        return clustered[0], clustered[1]
    moved = [build("Gather", build.reshape(x, -1, each), order) for x, each in zip(clustered, (width, depth), strict=True)]
    found = [build("Reshape", x, build("Shape", before)) for x, before in zip(moved, clustered, strict=True)]
    return found[0], found[1]


def tables_of(
    build: Builder, keys: ir.Value, values: ir.Value, width: ir.Value, depth: ir.Value, layout: Layout, piece: int
) -> Tables:
    """The tables of `keys` and `values` [B, Hkv, P, .] in that order, sums over pieces of so many rows."""
    count = layout.key_tile
    key_tiles, value_tiles = build.reshape(keys, 0, 0, -1, count, width), build.reshape(values, 0, 0, -1, count, depth)
    means = _mean(build, key_tiles, 3, count)
    centred = build("Sub", key_tiles, means)
    pieces = build.reshape(centred, 0, 0, -1, piece, width)
    sums = build("MatMul", build("Transpose", pieces, perm=(0, 1, 2, 4, 3)), build.reshape(values, 0, 0, -1, piece, depth))
    return Tables(
        keys,
        values,
        build("Transpose", build("Squeeze", means, build.sizes(3)), perm=(0, 1, 3, 2)),
        build("Squeeze", _mean(build, value_tiles, 3, count), build.sizes(3)),
        build(
            "Transpose",
            build("Squeeze", _mean(build, build("Mul", centred, centred), 3, count), build.sizes(3)),
            perm=(0, 1, 3, 2),
        ),
        build.reshape(sums, 0, 0, 0, build("Mul", width, depth)),
    )


def slopes_of(build: Builder, near: Tables, far: Tables, tile: ir.Value, layout: Layout) -> ir.Value:
    """[B, Hkv, query tiles, D * Dv]: the mean of centred k^T v over the past of each query tile, by content where its segment is closed."""
    start = build.unsqueeze(build("Mul", tile, build.sizes(layout.query_tile)), 1)
    place = build("Mul", build.range(build("Shape", near.sums, start=2, end=3)), build.sizes(layout.query_tile))
    segment = build("Mul", build.range(build("Shape", far.sums, start=2, end=3)), build.sizes(layout.segment))
    closed = closed_at(build, start, layout)
    content = build("Less", build("Add", segment, build.sizes(layout.sink)), closed)
    sunk = build("And", build("Less", place, build.sizes(layout.sink)), build("Less", place, start))
    recent = build("And", build("GreaterOrEqual", place, closed), build("Less", place, start))
    masks = [content, build("Or", sunk, recent)]
    shares = build("Cast", build("Concat", *masks, axis=1), to=int(ir.DataType.FLOAT))
    keys = build("Cast", build("Max", start, build.sizes(1)), to=int(ir.DataType.FLOAT))
    return build("MatMul", build("Div", shares, keys), build("Concat", far.sums, near.sums, axis=2))


def closed_at(build: Builder, start: ir.Value, layout: Layout) -> ir.Value:
    """The position up to which keys are read by content, from `start`, that of the first query; the sink counts as read by content."""
    past = build("Max", build("Sub", start, build.sizes(layout.sink + layout.key_tile)), build.sizes(0))
    segments = build("Div", past, build.sizes(layout.segment))
    return build("Add", build("Mul", segments, build.sizes(layout.segment)), build.sizes(layout.sink))


def _mean(build: Builder, x: ir.Value, axis: int, count: int) -> ir.Value:
    return build("Mul", build("ReduceSum", x, build.sizes(axis), keepdims=1), build.float(1 / count))
