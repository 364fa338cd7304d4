"""Decoding with a key/value cache, priced from a model that was traced without one.

A decode phase feeds n new positions a sequence to a model whose attention finds `context` earlier ones in a cache. Every op but attention
is then the traced one at n positions. An attention reads the cache: its keys and values are constants of context + n rows that
come from memory once a call, as weights do, since all the others were read in between. The new rows are outputs. What the trace does to
keys and values on their way to the products (repeat heads, transpose) is done to the new rows only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from . import kinds
from .counts_traffic import item_bytes
from .net import Net, Op, Value
from .sites import AttentionSite, Miss

PRODUCTS = kinds.MATMUL | kinds.ATTENTION | {"einsum"}
MIXING = kinds.CONVOLUTION | kinds.RECURRENT | {"loop", "scan"}
"""Kinds that carry something from one position to the next outside attention."""

_WAY = kinds.MOVEMENT - kinds.GATHER - kinds.SCATTER - {"concat", "stack", "pad"} | {"identity", "cast", "dropout"}
_EVEN = (
    kinds.ELEMENTWISE | kinds.FREE - {"arange"} | kinds.MOVEMENT - kinds.SCATTER - {"concat", "stack", "pad", "triu", "tril"}
)
"""Kinds that make one number everywhere out of one number everywhere."""

_UNFOLLOWED = "which a decode phase cannot follow"


@dataclass(frozen=True)
class Cache:
    """What the attention `site` keeps between calls. `key` and `value` name the new rows where they are narrowest (before heads are
    repeated), `key_width` and `value_width` are the elements of one position, `positions` how many the site reads (the new ones too).

    `reads` are the operands that become the cache: (op id, operand, rows, axis of the positions). `grown` are the axes of other
    values that run over the cached positions: scores and masks.
    """

    site: str
    key: str
    value: str
    key_width: int
    value_width: int
    positions: int
    heads: int
    head_dim: int
    dtype: str
    reads: tuple[tuple[str, int, str, int], ...]
    grown: tuple[tuple[str, int], ...]

    @property
    def kv_heads(self) -> int:
        """Heads of keys that are kept."""
        return self.key_width // self.head_dim

    @property
    def bytes(self) -> float:
        """Bytes of one sequence [B]."""
        return (self.key_width + self.value_width) * self.positions * (item_bytes(self.dtype) or 0.0)


def find_caches(short: Net, long: Net, sites: Sequence[AttentionSite], seen: Mapping[str, int]) -> tuple[Cache, ...] | Miss:
    """The cache of every site, or the Miss that says why there is none.

    `short` and `long` view one graph with the same batch, at the n new positions of a call and at any other number of them: their
    difference tells which axes run over positions. `seen` says how many positions, cached and new, each site reads (by its id).
    """
    found: list[Cache] = []
    for site in sites:
        made = _cache(short, long, site, seen[site.id])
        if isinstance(made, Miss):
            return made
        found.append(made)
    return tuple(found)


def decode_net(net: Net, caches: Iterable[Cache]) -> Net:
    """`net`, a view at the new positions of any batch, with `caches` in place of the keys and values that attention would compute."""
    values, ops, outputs = dict(net.values), dict(net.ops), list(net.outputs)
    for cache in caches:
        for op_id, position, rows, axis in cache.reads:
            op = ops[op_id]
            name = f"{op_id}:cache.{position}"
            values[name] = _cached(values[op.inputs[position]], values[rows], name, axis, cache.positions)
            inputs = (*op.inputs[:position], name, *op.inputs[position + 1 :])
            attributes = {**op.attributes, "is_causal": False} if op.attributes.get("is_causal") else op.attributes
            ops[op_id] = replace(op, inputs=inputs, attributes=attributes)
        for name, axis in cache.grown:
            shape = values[name].shape or ()
            values[name] = replace(values[name], shape=(*shape[:axis], cache.positions, *shape[axis + 1 :]))
        outputs += [cache.key, cache.value]
    return Net(ops, values, net.inputs, tuple(dict.fromkeys(outputs)))


def cache_bytes(caches: Iterable[Cache]) -> float:
    """Bytes that the caches of one sequence take [B]; sites that share keys and values share a cache."""
    kept = {(cache.key, cache.value): cache.bytes for cache in caches}
    return float(sum(kept.values()))


def mixing_op(short: Net, long: Net) -> Op | None:
    """An op that mixes positions outside attention, so that the new ones alone do not tell what it costs; None if there is none."""
    mixing = (op for op in long.ops.values() if op.kind in MIXING)
    return next((op for op in mixing if any(_differing(short, long, name) for name in op.inputs if name)), None)


def position_rows(short: Net, long: Net) -> int | None:
    """The most positions that the tables of learned positions hold: a row for each position, chosen by shapes alone and not by what the
    inputs hold. None without such a table. One for distances has an index for each pair of positions, and no end; one of token types
    takes the same row everywhere."""
    tables = [op for op in long.ops.values() if op.kind in ("embedding", "gather") and long.values[op.inputs[0]].constant]
    learned = [op for op in tables if len(_differing(short, long, op.inputs[1])) == 1 and _counts(long, op.inputs[1])]
    shapes = [long.shape(op.inputs[0]) or () for op in learned]
    return min((shape[0] for shape in shapes if len(shape) == 2), default=None)


def _counts(net: Net, name: str) -> bool:
    """Whether a value may differ from position to position and follows from no input."""
    waiting, seen, varies = [name], {name}, False
    while waiting:
        value = waiting.pop()
        op = net.producer(value)
        if value in net.inputs:
            return False
        constant = net.array(value) if op is None else None
        varies = varies or (constant is not None and constant.size > 0 and constant.min() != constant.max())
        if op is not None and op.kind not in ("shape", "sym"):
            varies = varies or op.kind not in _EVEN
            # What is gathered is what the data hold, wherever it is taken from.
            operands = op.inputs[:1] if op.kind in kinds.GATHER else op.inputs
            new = [operand for operand in operands if operand and operand not in seen]
            waiting += new
            seen.update(new)
    return varies


def _cached(operand: Value, rows: Value, name: str, axis: int, positions: int) -> Value:
    """The cache in the layout of the operand it replaces, with the heads of the rows that are kept."""
    sizes = list(operand.shape or ())
    repeated = max(1, operand.elements // max(1, rows.elements))
    sizes[axis] = positions
    for place in reversed(range(len(sizes) - 2)):
        if repeated > 1 and sizes[place] % repeated == 0:
            sizes[place] //= repeated
            break
    shape = tuple(sizes)
    return Value(name, shape, operand.dtype, lambda: np.broadcast_to(np.float32(0), shape))


def _cache(short: Net, long: Net, site: AttentionSite, seen: int) -> Cache | Miss:
    shape = long.shape(site.query)
    own = short.shape(site.query)
    if shape is None or own is None or len(shape) != 4:
        return _refused(site, "has queries of a shape that is not known at this length")
    batch, heads, positions, head_dim = shape
    new = own[2]
    keys = long.shape(site.key) or ()
    if positions not in keys[2:] or new == positions or new not in (short.shape(site.key) or ())[2:]:
        return _refused(site, f"has {positions} queries over keys {list(keys)}: it reads a memory or a cache of its own")
    rows = [_narrowest(long, name) for name in (site.key, site.value)]
    reads: list[tuple[str, int, str, int]] = []
    for name in rows:
        products = [(op, position) for op, position in _products(long, name) if op.id in site.ops]
        axes = _differing(short, long, products[0][0].inputs[products[0][1]]) if len(products) == 1 else []
        if len(axes) != 1:
            return _refused(site, f"reads its keys or values in a layout {_UNFOLLOWED}")
        reads.append((products[0][0].id, products[0][1], name, axes[0]))
    grown = _grown(short, long, *(long.ops[op] for op, *_ in reads))
    if grown is None:
        return _refused(site, f"has scores in a layout {_UNFOLLOWED}")
    widths = [int(prod(long.shape(name) or ()) // (batch * positions)) for name in rows]
    dtype = long.values[rows[0]].dtype or site.dtype
    key, value = rows
    return Cache(
        site=site.id,
        key=key,
        value=value,
        key_width=widths[0],
        value_width=widths[1],
        positions=seen,
        heads=heads,
        head_dim=head_dim,
        dtype=dtype,
        reads=tuple(reads),
        grown=grown,
    )


def _refused(site: AttentionSite, why: str) -> Miss:
    return Miss(site.ops[-1], "attention", f"Attention {site.id} {why}.")


def _narrowest(net: Net, name: str) -> str:
    """The value with the fewest elements on the way up through moves: the rows before their heads were repeated, or cut out of a
    packed product."""
    best = name
    while (op := net.producer(name)) is not None and op.kind in _WAY and op.inputs and net.shape(op.inputs[0]) is not None:
        name = op.inputs[0]
        if net.values[name].elements < net.values[best].elements:
            best = name
    return best


def _products(net: Net, name: str) -> list[tuple[Op, int]]:
    """(op, operand) of the products that read a value, down through moves and scales."""
    found: dict[tuple[str, int], Op] = {}
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop()
        for op in net.consumers(value):
            if op.kind in PRODUCTS:
                found.update({(op.id, place): op for place, operand in enumerate(op.inputs) if operand == value})
            elif op.kind in _WAY | {"mul", "div"}:
                new = [output for output in op.outputs if output and output not in seen]
                waiting += new
                seen.update(new)
    return [(op, place) for (_, place), op in found.items()]


def _differing(short: Net, long: Net, name: str) -> list[int]:
    """The axes of a value whose size depends on the number of positions."""
    before, after = short.shape(name), long.shape(name)
    if before is None or after is None or len(before) != len(after):
        return []
    return [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]


def _grown(short: Net, long: Net, first: Op, last: Op) -> tuple[tuple[str, int], ...] | None:
    """(value, axis) of the scores between the two products and of the masks that are put on them; None for a layout unknown here."""
    found: dict[tuple[str, int], None] = {}
    if first.kind in kinds.ATTENTION:
        _grow_operands(short, long, [name for name in first.inputs[3:4] if name], found)
        return tuple(found)
    waiting, seen = [first.output], {first.output}
    while waiting:
        value = waiting.pop()
        axes, rank = _differing(short, long, value), len(long.shape(value) or ())
        if rank - 1 in axes:
            found[value, rank - 1] = None
        elif value == first.output:
            return None
        for op in long.consumers(value):
            if op.kind in PRODUCTS:
                if op.id != last.id:
                    return None
                continue
            _grow_operands(short, long, [name for name in op.inputs if name and name not in seen], found)
            new = [name for name in op.outputs if name and name not in seen]
            waiting += new
            seen.update(new)
    return tuple(found)


def _grow_operands(short: Net, long: Net, names: Sequence[str], found: dict[tuple[str, int], None]) -> None:
    for name in names:
        axes, rank = _differing(short, long, name), len(long.shape(name) or ())
        if rank - 1 in axes:
            found[name, rank - 1] = None
