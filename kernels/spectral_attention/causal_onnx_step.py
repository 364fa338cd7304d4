"""One step of a causal spectral attention in ONNX: as many queries as a segment has, against all keys before them."""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .causal_onnx_tables import ENDLESS, TINY, Tables, closed_at
from .causal_prepare import CausalPrepared
from .onnx_builder import Builder
from .reference import NEVER


class Sequence(NamedTuple):
    """What every step reads: `query` [B, H, N, D], `key` and `value` [B, Hkv, N, .], their tables by
    neighbours and, behind the sink, by content, the tiles of both behind each other [B * Hkv * `total`, key tile * .], of keys and of
    values, how far a tile by content is behind that by neighbours at the same positions (`apart`), the slopes [B, Hkv, query tiles,
    D * Dv], sizes: B, N, D, Dv; and the token [B, N] at each place of `key` and `value` where that is not the place itself."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    near: Tables
    far: Tables
    rows: tuple[ir.Value, ir.Value]
    total: ir.Value
    apart: ir.Value
    slopes: ir.Value
    batch: ir.Value
    length: ir.Value
    width: ir.Value
    depth: ir.Value
    order: ir.Value | None = None


class _Part(NamedTuple):
    """An attention of every query over some of the keys: `output` [B, H, tiles, query tile, Dv] and `mass` [B, H, tiles, query tile, 1],
    the log of what its weights were divided by."""

    output: ir.Value
    mass: ir.Value


def heads_of(build: Builder, x: ir.Value, heads: list[int]) -> ir.Value:
    """Those heads of `x` [B, heads, ...]."""
    return build("Gather", x, build.sizes(*heads), axis=1)


def _transposed(build: Builder, x: ir.Value, rank: int) -> ir.Value:
    return build("Transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))


class Step:
    """The queries of as many tiles as a segment has, with `build` inside the Scan; `tile` int64 [tiles] are their numbers, below zero for
    rows in front of the first query, whose outputs nobody reads."""

    def __init__(
        self, build: Builder, given: Sequence, prepared: CausalPrepared, kv_heads: int, tile: ir.Value, front: int, opset: int
    ) -> None:
        self.build, self.given, self.layout, self.opset = build, given, prepared.layout, opset
        self.groups, self.kv_heads = prepared.groups, kv_heads
        repeats = len(prepared.budgets) // kv_heads
        self.dense = [head // repeats for head in self.groups.get(None, ())]
        self.budgets = [budget for budget, members in self.groups.items() if budget is not None for _ in members]
        self.shared = [head // repeats for budget, members in self.groups.items() if budget is not None for head in members]
        size, each, segment = self.layout.query_tile, self.layout.key_tile, self.layout.segment
        self.tile, self.blocks = tile, segment // size
        self.begin = build("Mul", build("Slice", tile, build.sizes(0), build.sizes(1)), build.sizes(size))
        place = build("Add", self.begin, build.array(np.arange(segment)))
        self.place = build("Min", build("Max", place, build.sizes(0)), build("Sub", given.length, build.sizes(1)))
        # A row that is no query is zero, and so adds nothing to its tile's centre.
        scale = build("Where", build("Equal", place, self.place), build.float(prepared.scale), build.float(0.0))
        self.scale, self.heads = build.unsqueeze(scale, 1), [head for members in self.groups.values() for head in members]
        self.starts = build.unsqueeze(build("Mul", tile, build.sizes(size // each)), 1)
        self.slope = build("Gather", given.slopes, build("Add", tile, build.sizes(front // size)), axis=2)

    def _taken(self, x: ir.Value, width: ir.Value, heads: list[int], count: int, place: ir.Value) -> ir.Value:
        """The rows of `x` [B, count, N, width] at those places, of those heads: [B, heads, segment, width]."""
        build, given = self.build, self.given
        first = build("Mul", build.unsqueeze(build.range(given.batch), 1), build.sizes(count))
        first = build("Mul", build("Add", first, build.sizes(*heads)), given.length)
        return build("Gather", build.reshape(x, -1, width), build("Add", build.unsqueeze(first, 2), place))

    def _queries(self, heads: list[int]) -> ir.Value:
        """The scaled queries of those heads: [B, heads, segment, D]."""
        build, given, place = self.build, self.given, self.place
        if given.order is not None:
            place = build.unsqueeze(build("Gather", given.order, place, axis=1), 1)
        return build("Mul", self._taken(given.query, given.width, heads, len(self.heads), place), self.scale)

    def output(self) -> ir.Value:
        """[B, H, segment, Dv], heads in the order of budgets."""
        parts = [self._sparse()] if self.shared else []
        if self.dense:
            parts.append(self._dense())
        return parts[0] if len(parts) == 1 else self.build("Concat", *parts, axis=1)

    def _split(self, x: ir.Value, counts: list[int]) -> list[ir.Value]:
        """`x` [B, heads, ...] in parts of so many heads."""
        if len(counts) == 1:
            return [x]
        return self.build("Split", x, self.build.sizes(*counts), axis=1, outputs=len(counts))

    def _sparse(self) -> ir.Value:
        build, depth = self.build, self.given.depth
        self.query = self._queries(self.heads[: len(self.shared)])
        self.rows = build.reshape(self.query, 0, 0, self.blocks, self.layout.query_tile, self.given.width)
        chosen, held, far = self._far()
        parts = [self._own(), far]
        if max(self.budgets):
            parts.append(self._near(chosen, held))
        shares = build("Softmax", build("Concat", *(part.mass for part in parts), axis=4), axis=-1)
        shares = build("Split", shares, build.sizes(*[1] * len(parts)), axis=4, outputs=len(parts))
        weighted = [build("Mul", part.output, share) for part, share in zip(parts, shares, strict=True)]
        found = build("Add", weighted[0], weighted[1])
        if len(weighted) == 3:
            found = build("Add", found, weighted[2])
        return build.reshape(found, 0, 0, self.layout.segment, depth)

    def _attention(self, logits: ir.Value, values: ir.Value) -> _Part:
        weights = self.build("Softmax", logits, axis=-1)
        return _Part(self.build("MatMul", weights, values), self._mass(logits, weights))

    def _mass(self, logits: ir.Value, weights: ir.Value) -> ir.Value:
        """The greatest logit has the greatest weight, exp of it over the sum."""
        return self.build("Sub", self._greatest(logits), self.build("Log", self._greatest(weights)))

    def _greatest(self, x: ir.Value) -> ir.Value:
        return self.build("ReduceMax", x, self.build.sizes(-1)) if self.opset >= 18 else self.build("ReduceMax", x, axes=(-1,))

    def _own(self) -> _Part:
        """The keys of a query's own tile, up to itself."""
        build, size = self.build, self.layout.query_tile
        keys, values = (
            build.reshape(self._taken(x, each, self.shared, self.kv_heads, self.place), 0, 0, self.blocks, size, each)
            for x, each in ((self.given.key, self.given.width), (self.given.value, self.given.depth))
        )
        logits = build("MatMul", self.rows, _transposed(build, keys, 5))
        behind = np.triu(np.full((size, size), NEVER, np.float32), 1)
        return self._attention(build("Add", logits, build.array(behind)), values)

    def _far(self) -> tuple[ir.Value, ir.Value, _Part]:
        """(the tiles chosen for each tile of queries [B, H, tiles, greatest budget], whether they are usable, the attention to the means of
        all others)."""
        build, given, layout = self.build, self.given, self.layout
        end, closed, means, value_means, variances = self._tables()
        counts = build("Sub", given.length, build("Mul", self.tile, build.sizes(layout.query_tile)))
        counts = build("Min", build("Max", counts, build.sizes(1)), build.sizes(layout.query_tile))
        counts = build.unsqueeze(build("Cast", counts, to=int(ir.DataType.FLOAT)), 1)
        # A product with ones is a sum, and ten times as fast as onnxruntime's sum over an axis in the middle.
        centres = build("MatMul", build.array(np.ones((1, layout.query_tile), np.float32)), self.rows)
        centres = build("Div", build("Squeeze", centres, build.sizes(3)), counts)
        spread = build("MatMul", build("Mul", centres, centres), variances)
        score = build("MatMul", centres, means)
        score = build("Add", score, build("Log", build("Max", spread, build.float(TINY))))
        place = build.range(end)
        usable = build("Less", place, self.starts)
        forced = build(
            "Or", build("Equal", place, build.number(0)), build("Equal", place, build("Sub", self.starts, build.sizes(1)))
        )
        score = build("Where", build("And", forced, usable), build.float(-NEVER), score)
        score = build("Where", usable, score, build.float(NEVER))
        count = build("Min", build.sizes(max(self.budgets)), end)
        best, chosen = build("TopK", score, count, outputs=2)
        barred = build("Where", usable, build.float(log(layout.key_tile)), build.float(NEVER))
        bias = build("Add", build("Log", build("Add", build("Mul", spread, build.float(0.5)), build.float(1.0))), barred)
        if max(self.budgets):
            taken = np.arange(max(self.budgets)) < np.array(self.budgets)[:, None, None]
            taken = build(
                "Slice", build.array(np.where(taken, np.float32(NEVER), np.float32(0.0))), build.sizes(0), count, build.sizes(2)
            )
            taken = build("Add", build("GatherElements", bias, chosen, axis=3), taken)
            bias = build("ScatterElements", bias, chosen, taken, axis=3)
        logits = build("MatMul", self.query, means)
        logits = build("Add", build.reshape(logits, 0, 0, self.blocks, layout.query_tile, end), build.unsqueeze(bias, 3))
        weights = build("Softmax", logits, axis=-1)
        found = build("MatMul", build.reshape(weights, 0, 0, layout.segment, end), value_means)
        found = build.reshape(found, 0, 0, self.blocks, layout.query_tile, given.depth)
        slope = build.reshape(heads_of(build, self.slope, self.shared), 0, 0, 0, given.width, given.depth)
        far = _Part(build("Add", found, build("MatMul", self.rows, slope)), self._mass(logits, weights))
        content = build(
            "And", build("Less", chosen, closed), build("GreaterOrEqual", chosen, build.number(layout.sink // layout.key_tile))
        )
        content = build("Where", content, given.apart, build.sizes(0))
        held = build("Where", build("Greater", best, build.float(NEVER / 2)), build.float(0.0), build.float(NEVER))
        return build("Add", chosen, content), held, far

    def _tables(self) -> tuple[ir.Value, ...]:
        """(tiles of the past, those of them by content, means of keys [B, heads, D, tiles], of values [B, heads, tiles, Dv], and the
        variance of keys [B, heads, D, tiles])."""
        build, layout = self.build, self.layout
        last = build("Slice", build.reshape(self.starts, -1), build.sizes(-1), build.sizes(ENDLESS))
        end = build("Max", last, build.sizes(1))
        closed = build(
            "Div", closed_at(build, build("Mul", last, build.sizes(layout.key_tile)), layout), build.sizes(layout.key_tile)
        )
        closed = build("Min", closed, end)
        sink = build.sizes(layout.sink // layout.key_tile)
        sunk, inside = build("Min", sink, end), build("Max", build("Sub", closed, sink), build.sizes(0))
        near, far = self.given.near, self.given.far
        tables = [
            build(
                "Concat",
                build("Slice", neighbours, build.sizes(0), sunk, build.sizes(axis)),
                build("Slice", content, build.sizes(0), inside, build.sizes(axis)),
                build("Slice", neighbours, closed, end, build.sizes(axis)),
                axis=axis,
            )
            for content, neighbours, axis in (
                (far.means, near.means, 3), (far.value_means, near.value_means, 2), (far.variances, near.variances, 3)
            )
        ]  # fmt: skip
        return end, closed, *(heads_of(build, table, self.shared) for table in tables)

    def _near(self, chosen: ir.Value, held: ir.Value) -> _Part:
        """The keys of the exact tiles, each budget by itself."""
        build, given, size, count = self.build, self.given, self.layout.query_tile, self.layout.key_tile
        first = build(
            "Add",
            build("Mul", build.unsqueeze(build.range(given.batch), 1), build.sizes(self.kv_heads)),
            build.sizes(*self.shared),
        )
        chosen = build("Add", chosen, build.unsqueeze(build("Mul", first, given.total), 2, 3))
        members = [self.budgets.count(budget) for budget in sorted(set(self.budgets))]
        parts = []
        split = [self._split(x, members) for x in (self.rows, chosen, held)]
        for budget, heads, row, read, mask in zip(sorted(set(self.budgets)), members, *split, strict=True):
            if not budget:
                shape = build.join(given.batch, heads, self.blocks, size)
                parts.append(
                    _Part(
                        build("Expand", build.float(0.0), build("Concat", shape, given.depth, axis=0)),
                        build("Expand", build.float(NEVER), build("Concat", shape, build.sizes(1), axis=0)),
                    )
                )
                continue
            read, mask = (build("Slice", x, build.sizes(0), build.sizes(budget), build.sizes(3)) for x in (read, mask))
            keys, values = (
                build("Reshape", build("Gather", table, read), build.join(given.batch, heads, self.blocks, -1, each))
                for table, each in zip(given.rows, (given.width, given.depth), strict=True)
            )
            mask = build("Expand", build.unsqueeze(mask, 4), build.sizes(1, 1, 1, 1, count))
            mask = build.reshape(mask, given.batch, heads, self.blocks, 1, -1)
            parts.append(self._attention(build("Add", build("MatMul", row, _transposed(build, keys, 5)), mask), values))
        if len(parts) == 1:
            return parts[0]
        return _Part(*(build("Concat", *each, axis=1) for each in zip(*parts, strict=True)))

    def _dense(self) -> ir.Value:
        """Heads that stay dense: [B, heads, segment, Dv]; one at a time, since the logits of several leave the cache."""
        build, segment = self.build, self.layout.segment
        end = build("Add", self.begin, build.sizes(segment))
        behind = build.array(np.triu(np.full((segment, segment), NEVER, np.float32), 1))
        behind = build("Pad", behind, build.join(0, self.begin, 0, 0))
        found = []
        for head, shared in zip(self.heads[len(self.shared) :], self.dense, strict=True):
            keys, values = (
                build(
                    "Slice", x, build.sizes(shared, 0), build("Concat", build.sizes(shared + 1), end, axis=0), build.sizes(1, 2)
                )
                for x in (self.given.near.keys, self.given.near.values)
            )
            logits = build("Add", build("MatMul", self._queries([head]), _transposed(build, keys, 4)), behind)
            found.append(build("MatMul", build("Softmax", logits, axis=-1), values))
        return found[0] if len(found) == 1 else build("Concat", *found, axis=1)
