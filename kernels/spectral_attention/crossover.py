"""Where spectral attention begins to pay: the length from which its modelled joules lie below those of dense attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log2
from types import MappingProxyType

from ...cost_model.counts import Counts
from ...cost_model.counts_flops import WEIGHT
from ...cost_model.counts_nests import LEAST_PARTIAL, Nests
from ...cost_model.counts_traffic import item_bytes
from ...cost_model.device import Device
from ...cost_model.net import Net
from ...cost_model.price import price_counts
from ...cost_model.sites import AttentionSite
from ...cost_model.tile_reuse import Product, Scores

TILE = 64
DENSITY = 0.12
LEAST_BUDGET = 5
"""Fewest tiles of 64 that are taken exactly. On the 72 heads of a trained MiniLM at 512 tokens, 1, 2, 3, 4 and 6 tiles left relative errors
of 0.43, 0.30, 0.22, 0.17 and 0.09; between the last two the square falls below 0.02 (five itself was not measured). At 4,096 tokens the
share of tiles decides instead."""
LONGEST = 1 << 20
INDEX = 8.0
"""Bytes of an index: 64 bit in ONNX and in torch."""
SMALL_OPS = 80
"""Operators of `onnx_body.py` on sizes, shapes and counts alone, which cost their launch."""
SLOWER = {
    "topk": 100.0,
    "argmax": 12.0,
    "gather": 6.0,
    "reduce_sum": 4.0,
    "pad": 2.5,
    "concat": 2.0,
    "add": 2.0,
    "matmul": 1.5,
    "softmax": 1.5,
}
"""Seconds of each kind of operator in the sparse form over its roofline, where those of onnxruntime's fused attention are 1: measured on
one AVX-512 core at 512 and 1,024 tokens, 12 heads of 32. Sorting is no vector code, and the products of a tile are small."""

Stage = tuple[str, Counts]


def tiles_for(length: int, tile: int) -> int:
    """Tiles that `length` rows fill, the last one maybe in part."""
    return ceil(length / tile)


def budget_for(length: int, tile: int, density: float) -> int:
    """Tiles of keys that a tile of queries attends to exactly: that share of them, and no fewer than `LEAST_BUDGET`."""
    return max(LEAST_BUDGET, ceil(density * tiles_for(length, tile) - 1e-9))


def leaves_for(length: int, tile: int) -> int:
    """Leaves of a codebook: the power of two next above the number of tiles, so that a leaf seldom straddles two tiles."""
    return 1 << max(0, ceil(log2(tiles_for(length, tile))))


def costs(
    site: AttentionSite, length: int, device: Device, *, tile: int = TILE, density: float = DENSITY
) -> tuple[float, float]:
    """(dense, sparse) modelled joules of the site's attention with `length` queries and keys.

    Dense is the cheaper of one fused kernel and its three spelled-out operators; sparse the sum over the operators of `onnx_body.py`, each
    a kernel of its own. On a CPU these take `SLOWER` times their roofline, and as many times the joules: a busy core draws the same
    whatever it runs. Raises InputError when the profile has no coefficient for the site's dtype.
    """
    dense = min(_joules(stages, device) for stages in _dense(site, length))
    return dense, _joules(sparse_stages(site, length, tile, density), device, SLOWER if device.kind == "cpu" else {})


def crossover(site: AttentionSite, device: Device, tile: int = TILE, density: float = DENSITY) -> int | None:
    """The smallest length, found by doubling from one tile and then by bisection, at which the sparse operator's modelled joules lie below
    dense attention's; None if there is none up to 2^20."""

    def pays(length: int) -> bool:
        dense, sparse = costs(site, length, device, tile=tile, density=density)
        return sparse < dense

    high = tile
    while not pays(high):
        high *= 2
        if high > LONGEST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def refusal(site: AttentionSite, longest: int | None, device: Device, tile: int = TILE, density: float = DENSITY) -> str:
    """One sentence that says why the site stays dense, "" if the sparse operator may be offered. `longest` is the length that the model
    takes at most (see `longest_length`), None if that is not known."""
    length = site.key_length
    takes = f" (the model takes at most {longest:,})" if longest is not None and longest > length else ""
    found = crossover(site, device, tile, density)
    subject = "Spectral sparse attention is refused:"
    if found is None:
        return (
            f"{subject} {length:,} tokens{takes} lie below any crossover: up to {LONGEST:,} tokens it costs no fewer modelled joules than "
            f"dense attention on {device.name}."
        )
    if length < found:
        about = round(found, 1 - len(str(found)) + 1)
        return (
            f"{subject} {length:,} tokens{takes} lie below the crossover of about {about:,} tokens, where it and dense attention cost the "
            f"same modelled joules on {device.name}."
        )
    reason = _unsupported(site)
    return f"{subject} attention {site.id} {reason}." if reason else ""


def longest_length(net: Net) -> int | None:
    """The most tokens that the model takes: the rows of a learned table of positions. None where no such table is found, or several that
    differ.

    A heuristic: positions are looked up by indices made of constants and sizes alone, where a vocabulary is by those of an input.
    """
    computed = _computed_from_inputs(net)
    tables = set()
    for op in net.ops.values():
        if op.kind not in ("embedding", "gather") or len(op.inputs) < 2 or op.inputs[1] in computed:
            continue
        table, places = net.values.get(op.inputs[0]), net.shape(op.inputs[1])
        if table is None or not table.constant or not str(table.dtype).startswith(("float", "bfloat")):
            continue
        if places and table.shape is not None and len(table.shape) == 2:
            tables.add(table.shape[0])
    return tables.pop() if len(tables) == 1 else None


def _computed_from_inputs(net: Net) -> set[str]:
    """Values that depend on the contents of an input, not on sizes alone."""
    found = set(net.inputs)
    for op in net.ops.values():
        if op.kind not in ("shape", "size", "sym") and found.intersection(op.inputs):
            found.update(op.outputs)
    return found


def _unsupported(site: AttentionSite) -> str:
    """What of the site this operator does not do, "" if nothing."""
    if site.form == "packed":
        return "is one operator with operands in a layout of its own, and it reads them as [batch, heads, length, width]"
    if site.sink:
        return "has an attention sink, which it does not have"
    if site.causal:
        return "is causal, and its centroids would let a query see keys behind it"
    if site.mask:
        return "has a mask, which does not hold for the centroid of a tile"
    if site.kv_heads != site.heads:
        return f"shares {site.kv_heads} key heads among {site.heads} heads, and it sorts keys for each head"
    if site.softcap:
        return "has a softcap, which it does not apply"
    if site.query_length != site.key_length:
        return f"has {site.query_length:,} queries for {site.key_length:,} keys, and it is made for self-attention"
    if site.dtype != "float32":
        return f"is {site.dtype}, and it runs in float32"
    return ""


def _joules(stages: Iterable[Stage], device: Device, slower: Mapping[str, float] = MappingProxyType({})) -> float:
    return sum(price_counts(counts, device, kind).joules * slower.get(kind, 1.0) for kind, counts in stages)


def _stage(
    kind: str,
    flops: dict[str, float],
    read: Iterable[float],
    written: float,
    weights: float = 0.0,
    launches: int = 1,
    nests: Nests = (),
) -> Stage:
    """One operator: `read` and `written` bytes of activations, `weights` bytes of constants."""
    read = tuple(read)
    return kind, Counts(flops, sum(read) + weights, written, (*read, written), launches=launches, nests=nests)


def _matmul(
    dtype: str, batch: int, rows: int, inner: int, columns: int, read: Iterable[float], written: float, weights: float = 0.0
) -> Stage:
    """`batch` products [rows, inner] x [inner, columns] of a dtype."""
    item = item_bytes(dtype) or 4.0
    nest = Product(batch, rows, inner, columns, item, item, max(LEAST_PARTIAL, item))
    return _stage("matmul", {f"{dtype}.tensor": 2.0 * batch * rows * inner * columns}, read, written, weights, nests=(nest,))


def _dense(site: AttentionSite, length: int) -> tuple[list[Stage], list[Stage]]:
    """One fused kernel; and product, softmax, product."""
    kind, item, width = site.dtype, item_bytes(site.dtype) or 4.0, site.head_dim
    groups = site.batch * site.heads
    rows, scores = groups * length * width * item, float(groups) * length * length
    weigh = {kind: WEIGHT["softmax"] * scores}
    nest = Scores(groups, length, length, width, width, item, item, max(LEAST_PARTIAL, item))
    fused = _stage("attention", {f"{kind}.tensor": 4 * scores * width, **weigh}, [rows] * 3, rows, nests=(nest,))
    first = _matmul(kind, groups, length, width, length, [rows, rows], scores * item)
    last = _matmul(kind, groups, length, length, width, [scores * item, rows], rows)
    return [fused], [first, _stage("softmax", weigh, [scores * item], scores * item), last]


def sparse_stages(site: AttentionSite, length: int, tile: int = TILE, density: float = DENSITY) -> list[Stage]:
    """Every operator of the sparse form at `length` queries and keys as (kind, counts), in the order of `onnx_body.py`."""
    kind, item = site.dtype, item_bytes(site.dtype) or 4.0
    heads, width = site.batch * site.heads, site.head_dim
    groups = float(heads)
    tiles, leaves = tiles_for(length, tile), leaves_for(length, tile)
    columns = min(tiles, budget_for(length, tile, density)) * tile + tiles
    rows, places, means = groups * length * width * item, groups * length * INDEX, groups * tiles * width * item
    near, pairs, wide = groups * length * leaves, groups * tiles * tiles, groups * tiles * columns
    between, scores, table = groups * tiles * length, groups * length * columns, rows + means
    taken = wide * width * item

    def elementwise(count: int, elements: float, size: float, dtype: str = kind) -> list[Stage]:
        return [_stage("add", {dtype: elements}, [elements * size], elements * size)] * count

    assign = [
        _matmul(kind, heads, length, width, leaves, [rows], near * item, weights=site.heads * leaves * width * item),
        *elementwise(1, near, item),
        _stage("argmax", {kind: near}, [near * item], places),
        *elementwise(2, groups * length, INDEX, "int32"),
        _stage("topk", {"int32": groups * length * log2(max(length, 2))}, [places], 2 * places),
        *elementwise(1, groups * length, INDEX, "int32"),
    ]
    order = [_stage("gather", {}, [rows, places], rows), _stage("pad", {}, [rows], rows)]
    mean = [_stage("reduce_sum", {kind: rows / item}, [rows], means), *elementwise(1, means / item, item)]
    score = [
        _matmul(kind, heads, tiles, width, tiles * tile, [means, rows], between * item),
        *elementwise(1, between, item),
        _stage("reduce_sum", {kind: between}, [between * item], pairs * item),
        _matmul(kind, heads, tiles, width, tiles, [means, means], pairs * item),
        *elementwise(9, pairs, item),
        _stage("topk", {kind: pairs * log2(max(tiles, 2))}, [pairs * item], wide / tile * (item + INDEX)),
    ]
    choose = [*elementwise(4, wide, INDEX, "int32"), *elementwise(4, wide, item)]
    tables = [_stage("concat", {}, [rows, means], table), _stage("gather", {}, [min(table, taken), wide * INDEX], taken)] * 2
    attend = [
        *elementwise(1, rows / item, item),
        _matmul(kind, heads * tiles, tile, width, columns, [rows, taken], scores * item),
        _stage("add", {kind: scores}, [scores * item, wide * item], scores * item),
        _stage("softmax", {kind: WEIGHT["softmax"] * scores}, [scores * item], scores * item),
        _matmul(kind, heads * tiles, tile, columns, width, [scores * item, taken], rows),
    ]
    back = [*elementwise(3, groups * length, INDEX, "int32"), order[0]]
    small = _stage("identity", {}, [], 0.0, launches=SMALL_OPS)
    return [*assign * 2, *order * 3, *mean * 3, *score, *choose, *tables, *attend, *back, small]
