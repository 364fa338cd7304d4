"""Spectral sparse attention as standard ONNX operators (opset 15 or later), equal to `reference.py`, for every length in one file."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ...cost_model.errors import InputError
from .prepare import SparsePrepared
from .reference import FLOOR

OPSET = 15
"""The first operator set whose Shape takes a part of the axes."""
TINY = float(np.finfo(np.float32).tiny)


class SparseBody(NamedTuple):
    """Nodes in order, the value that holds the result [B, H, N, Dv], and the initialisers to register with the graph."""

    nodes: list[ir.Node]
    output: ir.Value
    initializers: list[ir.Value]


class _Rows(NamedTuple):
    """One sequence of G = B * H heads of `length` rows: their `order` by leaf [G, length], the same as `places` in a flat table, the
    `pad` to whole tiles, the number of `tiles`, and how many rows each tile holds (`counts` [tiles], float)."""

    length: ir.Value
    order: ir.Value
    places: ir.Value
    pad: ir.Value
    tiles: ir.Value
    counts: ir.Value


def attention_nodes(query: ir.Value, key: ir.Value, value: ir.Value, prepared: SparsePrepared, name: str) -> SparseBody:
    """The operator on float32 `query` [B, H, N, D], `key` [B, H, S, D], `value` [B, H, S, Dv]; names start with `name`.

    All sizes but H and D come from Shape, and the exact tiles from TopK with k = Min(budget, tiles), so that short lengths come out exact
    and there is no If. Rows are gathered from flat tables, which onnxruntime copies row by row; GatherElements would go number by number.
    Raises InputError for a budget below one.
    """
    if prepared.budget < 1:
        raise InputError(f"Spectral attention in ONNX needs a budget of at least one tile, not {prepared.budget}.")
    build = _Builder(name)
    tile, width = build.sizes(prepared.tile), build.sizes(prepared.query_codebook.shape[2])
    depth = build("Shape", value, start=3, end=4)
    groups = build(
        "Range", build.number(0), build("ReduceProd", build("Shape", query, start=0, end=2), keepdims=0), build.number(1)
    )
    heads = build("Unsqueeze", groups, build.sizes(-1))
    queries = _sorted(build, query, prepared.query_codebook, heads, tile)
    keys = _sorted(build, key, prepared.key_codebook, heads, tile)
    query_tiles = build("Mul", _tiles(build, query, width, queries, tile), build.float(prepared.scale))
    key_tiles, value_tiles = _tiles(build, key, width, keys, tile), _tiles(build, value, depth, keys, tile)
    key_means, value_means = _means(build, key_tiles, keys), _means(build, value_tiles, keys)

    scores = _scores(build, _means(build, query_tiles, queries), key_tiles, key_means, keys)
    chosen = build("TopK", scores, build("Min", build.sizes(prepared.budget), keys.tiles), outputs=2)[1]
    columns, bias = _columns(build, chosen, keys, heads, tile)
    exact_and_means = [
        build("Gather", build("Reshape", build("Concat", rows, means, axis=1), build.join(-1, size)), columns)
        for tiles, means, size in ((key_tiles, key_means, width), (value_tiles, value_means, depth))
        for rows in (build("Reshape", tiles, build.join(0, -1, size)),)
    ]
    logits = build("Add", build("MatMul", query_tiles, build("Transpose", exact_and_means[0], perm=(0, 1, 3, 2))), bias)
    output = build("MatMul", build("Softmax", logits, axis=-1), exact_and_means[1])
    result = _unsorted(build, output, queries, heads, tile, depth)
    result = build("Reshape", result, build("Concat", build("Shape", query, start=0, end=3), depth, axis=0), label="output")
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return SparseBody(build.nodes, result, list(build.initializers.values()))


def _sorted(build: _Builder, x: ir.Value, codebook: np.ndarray, heads: ir.Value, tile: ir.Value) -> _Rows:
    """The order of the rows of `x` by nearest leaf. leaf * length + position makes the sort stable, as no two are equal."""
    length = build("Shape", x, start=2, end=3)
    offset = -0.5 * np.square(codebook).sum(-1)[:, None]
    nearness = build("Add", build("MatMul", x, build.array(codebook.transpose(0, 2, 1))), build.array(offset))
    leaf = build("Reshape", build("ArgMax", nearness, axis=-1, keepdims=0), build.join(-1, length))
    ranked = build("Add", build("Mul", leaf, length), _range(build, length))
    order = build("TopK", ranked, length, outputs=2, largest=0)[1]
    places = build("Add", order, build("Mul", heads, length))
    pad = build("Mod", build("Neg", length), tile)
    tiles = build("Div", build("Add", length, pad), tile)
    left = build("Sub", length, build("Mul", _range(build, tiles), tile))
    counts = build("Cast", build("Min", left, tile), to=int(ir.DataType.FLOAT))
    return _Rows(length, order, places, pad, tiles, counts)


def _tiles(build: _Builder, x: ir.Value, width: ir.Value, rows: _Rows, tile: ir.Value) -> ir.Value:
    """`x` [B, H, length, width] in order as [G, tiles, tile, width], the last tile padded with zeros."""
    ordered = build("Gather", build("Reshape", x, build.join(-1, width)), rows.places)
    padded = build("Pad", ordered, build.join(0, 0, 0, 0, rows.pad, 0))
    return build("Reshape", padded, build.join(0, -1, tile, width))


def _means(build: _Builder, tiles: ir.Value, rows: _Rows) -> ir.Value:
    """[G, tiles, width]: the mean of the rows that each tile holds."""
    total = build("ReduceSum", tiles, build.sizes(2), keepdims=0)
    return build("Div", total, build("Unsqueeze", rows.counts, build.sizes(-1)))


def _scores(build: _Builder, centres: ir.Value, key_tiles: ir.Value, key_means: ir.Value, keys: _Rows) -> ir.Value:
    """[G, query tiles, key tiles]: `reference.tile_scores`."""
    flat = build("Reshape", key_tiles, build.join(0, -1, build("Shape", key_tiles, start=3, end=4)))
    logits = build("MatMul", centres, build("Transpose", flat, perm=(0, 2, 1)))
    apart = build("Reshape", logits, build.join(0, 0, keys.tiles, -1))
    square = build("Div", build("ReduceSum", build("Mul", apart, apart), build.sizes(3), keepdims=0), keys.counts)
    mean = build("MatMul", centres, build("Transpose", key_means, perm=(0, 2, 1)))
    floor = build("Add", build("Mul", square, build.float(FLOOR)), build.float(TINY))
    variance = build("Max", build("Sub", square, build("Mul", mean, mean)), floor)
    return build("Add", mean, build("Log", build("Mul", variance, keys.counts)))


def _columns(build: _Builder, chosen: ir.Value, keys: _Rows, heads: ir.Value, tile: ir.Value) -> tuple[ir.Value, ir.Value]:
    """What each tile of queries attends to: rows [G, query tiles, columns] of a table that holds the sorted keys of a head and then its
    means, and the bias [G, query tiles, 1, columns]: -inf for padding and for the means of chosen tiles, else the log of the count."""
    sorted_rows = build("Mul", keys.tiles, tile)
    places = build("Add", build("Mul", build("Unsqueeze", chosen, build.sizes(-1)), tile), _range(build, tile))
    flat = build.join(0, 0, -1)
    mean_rows = build("Add", _range(build, keys.tiles), sorted_rows)
    blocks = build("Concat", build("Shape", chosen, start=0, end=2), keys.tiles, axis=0)
    within = build("Concat", build("Reshape", places, flat), build("Expand", mean_rows, blocks), axis=2)
    table = build("Add", sorted_rows, keys.tiles)
    rows = build("Add", within, build("Unsqueeze", build("Mul", heads, table), build.sizes(-1)))

    infinite = build.array(np.array(-np.inf, np.float32))
    place = build("Cast", _range(build, tile), to=int(ir.DataType.FLOAT))
    held = build("Less", place, build("Unsqueeze", keys.counts, build.sizes(-1)))
    exact = build("Gather", build("Where", held, build.float(0.0), infinite), chosen)
    logs = build("Expand", build("Log", keys.counts), blocks)
    means = build("ScatterElements", logs, chosen, build("Expand", infinite, build("Shape", chosen)), axis=2)
    bias = build("Concat", build("Reshape", exact, flat), means, axis=2)
    return rows, build("Unsqueeze", bias, build.sizes(2))


def _unsorted(build: _Builder, output: ir.Value, queries: _Rows, heads: ir.Value, tile: ir.Value, depth: ir.Value) -> ir.Value:
    """[G, tiles, tile, depth] back in the order of the input, without the padding: [G, length, depth]."""
    positions = build("Expand", _range(build, queries.length), build("Shape", queries.order))
    inverse = build("ScatterElements", queries.order, queries.order, positions, axis=1)
    rows = build("Add", inverse, build("Mul", heads, build("Mul", queries.tiles, tile)))
    return build("Gather", build("Reshape", output, build.join(-1, depth)), rows)


def _range(build: _Builder, end: ir.Value) -> ir.Value:
    """0, 1, ... up to the one element of `end`."""
    return build("Range", build.number(0), build("Squeeze", end), build.number(1))


class _Builder:
    """Makes nodes with names of their own, and one initialiser for each distinct constant."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[ir.Node] = []
        self.made: dict[tuple, ir.Value | list[ir.Value]] = {}
        self.initializers: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}

    def __call__(self, kind: str, *inputs: ir.Value, outputs: int = 1, label: str = "", **attributes: object) -> Any:
        """The value that a node makes, or a list of `outputs` of them; equal nodes are made once."""
        key = (kind, *map(id, inputs), *sorted(attributes.items()))
        if key in self.made:
            return self.made[key]
        name = f"{self.name}.{label or f'{len(self.nodes)}_{kind}'}"
        values = [ir.Value(name=name if outputs == 1 else f"{name}.{index}") for index in range(outputs)]
        self.nodes.append(ir.node(kind, inputs, attributes, outputs=values, name=name))  # type: ignore[arg-type]
        self.made[key] = values[0] if outputs == 1 else values
        return self.made[key]

    def array(self, array: np.ndarray) -> ir.Value:
        """That array as an initialiser."""
        array = np.asarray(array, order="C")
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self.initializers:
            tensor = ir.tensor(array, name=f"{self.name}.constant_{len(self.initializers)}")
            self.initializers[key] = ir.Value(
                name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self.initializers[key]

    def sizes(self, *numbers: int) -> ir.Value:
        """Those integers as a list."""
        return self.array(np.array(numbers, np.int64))

    def number(self, number: int) -> ir.Value:
        """That integer as a scalar."""
        return self.array(np.array(number, np.int64))

    def float(self, number: float) -> ir.Value:
        """That float32 as a scalar."""
        return self.array(np.array(number, np.float32))

    def join(self, *sizes: int | ir.Value) -> ir.Value:
        """A shape of numbers and of lists that are computed."""
        if all(isinstance(size, int) for size in sizes):
            return self.sizes(*sizes)  # type: ignore[arg-type]
        return self("Concat", *(self.sizes(size) if isinstance(size, int) else size for size in sizes), axis=0)
