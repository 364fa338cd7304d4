"""Where spectral attention begins to pay: the length from which its modelled joules lie below those of dense attention."""

from __future__ import annotations

from functools import lru_cache
from math import exp, log, log2

import numpy as np
import onnx_ir as ir

from ...cost_model.device import Device
from ...cost_model.net import Net, Op, Value
from ...cost_model.price import price_net
from ...cost_model.sites import AttentionSite
from ...cost_model.view_onnx import view_onnx
from .onnx_body import OPSET, attention_nodes
from .prepare import SparsePrepared
from .tiling import DENSITY, TILE, budget_for, leaves_for

LONGEST = 1 << 20
LONGEST_BUILT = 1 << 12
"""Longest length whose body is built and looked at, in a fifth of a second; joules beyond grow by as much a doubling as at the last one."""


def costs(
    site: AttentionSite, length: int, device: Device, *, tile: int = TILE, density: float = DENSITY
) -> tuple[float, float]:
    """(dense, sparse) modelled joules of the site's attention with `length` queries and keys, at the roofline.

    Dense is the cheaper of one fused kernel and its three spelled-out operators; sparse the sum over the operators of `onnx_body.py`, each
    a kernel of its own, at the two powers of two around `length`, between which joules are taken to grow by a power of the length.
    Raises InputError when the profile has no coefficient for the site's dtype.
    """
    dense = min(price_net(net, device).total.joules for net in _dense(site, length))
    end = min(1 << max(1, (length - 1).bit_length()), LONGEST_BUILT)
    low, high = (log(price_net(sparse_net(site, at, tile, density), device).total.joules) for at in (end // 2, end))
    return dense, exp(high + (high - low) * log2(length / end))


def sparse_net(site: AttentionSite, length: int, tile: int = TILE, density: float = DENSITY) -> Net:
    """The operators of the sparse form in place of the site, at `length` queries and keys."""
    return _body(site.batch, site.heads, length, site.head_dim, tile, density)


@lru_cache(maxsize=64)
def _body(batch: int, heads: int, length: int, width: int, tile: int, density: float) -> Net:
    codebook = np.random.default_rng(0).standard_normal((heads, leaves_for(length, tile), width)).astype(np.float32)
    prepared = SparsePrepared(codebook, codebook, tile, budget_for(length, tile, density), width**-0.5)
    shape = (batch, heads, length, width)
    query, key, value = (ir.Value(name=n, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)) for n in "qkv")
    body = attention_nodes(query, key, value, prepared, "spectral")
    graph = ir.Graph(
        [query, key, value],
        [body.output],
        nodes=body.nodes,
        initializers=body.initializers,
        opset_imports={"": OPSET},
        name="spectral",
    )
    return view_onnx(ir.Model(graph, ir_version=8), dict.fromkeys("qkv", shape))


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


def _dense(site: AttentionSite, length: int) -> tuple[Net, Net]:
    """One fused operator; and product, softmax, product."""
    rows, scores = (site.batch, site.heads, length, site.head_dim), (site.batch, site.heads, length, length)
    shapes = dict.fromkeys("qkvy", rows) | {
        "k transposed": (*rows[:2], site.head_dim, length),
        "scores": scores,
        "weights": scores,
    }
    values = {name: Value(name, shape, site.dtype) for name, shape in shapes.items()}
    attention = Op("attention", "attention", "", ("q", "k", "v"), ("y",), {"heads": site.heads, "kv_heads": site.heads}, "")
    apart = (
        Op("first", "matmul", "", ("q", "k transposed"), ("scores",), {}, ""),
        Op("softmax", "softmax", "", ("scores",), ("weights",), {"axis": -1}, ""),
        Op("last", "matmul", "", ("weights", "v"), ("y",), {}, ""),
    )
    return (
        Net({"attention": attention}, values, ("q", "k", "v"), ("y",)),
        Net({op.id: op for op in apart}, values, ("q", "k transposed", "v"), ("y",)),
    )
