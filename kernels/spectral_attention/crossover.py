"""Where spectral attention begins to pay: the length from which its modelled joules lie below those of dense attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import exp, log, log2
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...cost_model.contents import computed_from_contents
from ...cost_model.device import Device
from ...cost_model.net import Net, Op, Value
from ...cost_model.price import price_net
from ...cost_model.sites import AttentionSite, Site
from ...cost_model.view_onnx import view_onnx
from .causal import LAYOUT
from .causal_cost import causal_net
from .causal_prepare import GRID, CausalPrepared
from .onnx_body import OPSET, attention_nodes
from .prepare import SparsePrepared
from .tiling import DENSITY, TILE, budget_for, leaves_for
from .widths import MOST_WIDTH

LONGEST = 1 << 20
LONGEST_BUILT = {False: 1 << 12, True: 1 << 11}
"""By whether it is causal: longest length whose body is built and looked at, in a fifth of a second or in some; joules beyond grow by as
much a doubling as at the last one."""
LEAST_CAUSAL = LAYOUT.sink + LAYOUT.segment + LAYOUT.key_tile + LAYOUT.query_tile
"""Tokens up to which no segment of keys is closed for any query."""
STAND_IN = AttentionSite(
    "", (), "", "", "", "", scale=1.0, mask="", mask_kind="additive", causal=False, softcap=0.0, batch=1, heads=1, kv_heads=1,
    query_length=1, key_length=1, head_dim=1, key_transposed=False, dtype="float32", form="operator",
)  # fmt: skip


def costs(
    site: AttentionSite, length: int, device: Device, *, tile: int = TILE, density: float = DENSITY
) -> tuple[float, float]:
    """(dense, sparse) modelled joules of the site's attention with `length` queries and keys, at the roofline.

    Dense is the cheaper of one fused kernel, which leaves out what a causal mask hides, and its three spelled-out operators; sparse the sum
    over the operators of `onnx_body.py` or `causal_onnx.py`, each a kernel of its own, at the two powers of two around `length`, between
    which joules are taken to grow by a power of the length.
    Raises InputError when the profile has no coefficient for the site's dtype.
    """
    dense = min(price_net(net, device).total.joules for net in _dense(site, length))
    end = min(1 << max(1, (length - 1).bit_length()), LONGEST_BUILT[site.sees_no_later])
    low, high = (log(price_net(sparse_net(site, at, tile, density), device).total.joules) for at in (end // 2, end))
    return dense, exp(high + (high - low) * log2(length / end))


def sparse_net(site: AttentionSite, length: int, tile: int = TILE, density: float = DENSITY) -> Net:
    """The operators of the sparse form in place of the site, at `length` queries and keys, with `stand_in` for what calibration finds."""
    same = replace(
        STAND_IN, batch=site.batch, heads=site.heads, kv_heads=site.kv_heads, head_dim=site.head_dim, causal=site.sees_no_later
    )
    return _body(same, length, tile, density)


@lru_cache(maxsize=64)
def _body(site: AttentionSite, length: int, tile: int, density: float) -> Net:
    made = stand_in(site, length, tile, density)
    if isinstance(made, CausalPrepared):
        return causal_net(made, site.batch, site.kv_heads, length, site.head_dim)
    heads = {"q": site.heads, "k": site.kv_heads, "v": site.kv_heads}
    shapes = {name: (site.batch, count, length, site.head_dim) for name, count in heads.items()}
    query, key, value = (ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT)) for n, s in shapes.items())
    body = attention_nodes(query, key, value, made, "spectral")
    graph = ir.Graph(
        [query, key, value],
        [body.output],
        nodes=body.nodes,
        initializers=body.initializers,
        opset_imports={"": OPSET},
        name="spectral",
    )
    return view_onnx(ir.Model(graph, ir_version=8), shapes)


def stand_in(site: AttentionSite, length: int, tile: int = TILE, density: float = DENSITY) -> SparsePrepared | CausalPrepared:
    """Random codebooks, or budgets of causal heads, that cost at `length` what calibrated ones of that density do."""
    if site.sees_no_later:
        budget = max(GRID[0], round(density * length / 2 / LAYOUT.key_tile))
        return CausalPrepared((budget,) * site.heads, site.scale)
    random, leaves = np.random.default_rng(0), leaves_for(length, tile)
    books = [random.standard_normal((n, leaves, site.head_dim)).astype(np.float32) for n in (site.heads, site.kv_heads)]
    return SparsePrepared(books[0], books[1], tile, budget_for(length, tile, density), site.scale)


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


def meant_for(prepared: Mapping[str, Any], sites: Mapping[str, Site], device: Device) -> dict[str, Any]:
    """`prepared` by site, attentions with what depends on the device: the length from which each pays, at most that of its site (a module
    for free lengths is dense below it), and whether Triton runs it."""
    known: dict[tuple[int | bool, ...], int] = {}
    found = dict(prepared)
    for name, made in prepared.items():
        site = sites.get(name)
        if isinstance(made, SparsePrepared | CausalPrepared) and isinstance(site, AttentionSite):
            same = (site.batch, site.heads, site.kv_heads, site.head_dim, site.key_length, site.sees_no_later)
            if same not in known:
                known[same] = _pays_from(site, device)
            held = site.head_dim <= MOST_WIDTH.get(getattr(torch, site.dtype), 0)
            found[name] = replace(made, dense_below=known[same], on_cuda=device.kind == "cuda" and held)
    return found


def _pays_from(site: AttentionSite, device: Device) -> int:
    low, high = (LEAST_CAUSAL if site.sees_no_later else 1), site.key_length
    while high - low > 1:
        middle = (low + high) // 2
        dense, sparse = costs(site, middle, device)
        low, high = (low, middle) if sparse < dense else (middle, high)
    return high


def refusal(site: AttentionSite, longest: int | None, device: Device, tile: int = TILE, density: float = DENSITY) -> str:
    """One sentence that says why the site stays dense, "" if the sparse operator may be offered. `longest` is the length that the model
    takes at most (see `longest_length`), None if that is not known."""
    length = site.key_length
    takes = f" (the model takes at most {longest:,})" if longest is not None and longest > length else ""
    subject = "Spectral sparse attention is refused:"
    if site.sees_no_later:
        return _causal_refusal(site, takes, device, tile, density, subject)
    found = crossover(site, device, tile, density)
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


def _causal_refusal(site: AttentionSite, takes: str, device: Device, tile: int, density: float, subject: str) -> str:
    """By the price at the site's own length: to search for the crossover would build causal bodies for a minute."""
    length = site.key_length
    if length <= LEAST_CAUSAL:
        return f"{subject} up to {LEAST_CAUSAL:,} tokens it reads every key exactly, and attention {site.id} has {length:,}{takes}."
    if reason := _unsupported(site):
        return f"{subject} attention {site.id} {reason}."
    dense, sparse = costs(site, length, device, tile=tile, density=density)
    if sparse < dense:
        return ""
    return (
        f"{subject} at {length:,} tokens{takes} its modelled joules on {device.name} are {sparse:.3g}, those of dense attention "
        f"{dense:.3g}."
    )


def longest_length(net: Net) -> int | None:
    """The most tokens that the model takes: the rows of a learned table of positions. None where no such table is found, or several that
    differ.

    A heuristic: positions are looked up by indices made of constants and sizes alone, where a vocabulary is by those of an input.
    """
    computed = computed_from_contents(net)
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


def _unsupported(site: AttentionSite) -> str:
    """What of the site this operator does not do, "" if nothing."""
    if site.form == "packed":
        return "is one operator with operands in a layout of its own, and it reads them as [batch, heads, length, width]"
    if site.sink:
        return "has an attention sink, which it does not have"
    if site.mask and not site.mask_is_causal and not site.pads_keys:
        return "has a mask, which does not hold for the centroid of a tile"
    if site.softcap:
        return "has a softcap, which it does not apply"
    if site.query_length != site.key_length:
        return f"has {site.query_length:,} queries for {site.key_length:,} keys, and it is made for self-attention"
    if site.dtype != "float32":
        return f"is {site.dtype}, and it runs in float32"
    return ""


def _dense(site: AttentionSite, length: int) -> tuple[Net, Net]:
    """One fused operator; and product, softmax, product of keys and values that are repeated for each head."""
    rows, scores = (site.batch, site.heads, length, site.head_dim), (site.batch, site.heads, length, length)
    shared = (site.batch, site.kv_heads, length, site.head_dim)
    attributes = {"heads": site.heads, "kv_heads": site.kv_heads, "is_causal": site.sees_no_later}
    fused = (Op("attention", "attention", "", ("q", "k", "v"), ("y",), attributes),)
    apart = (
        Op("first", "matmul", "", ("q", "k"), ("scores",)),
        Op("softmax", "softmax", "", ("scores",), ("weights",), {"axis": -1}),
        Op("last", "matmul", "", ("weights", "v"), ("y",)),
    )
    spelled = {"q": rows, "k": (*rows[:2], site.head_dim, length), "v": rows, "y": rows, "scores": scores, "weights": scores}
    return _net(fused, {"q": rows, "k": shared, "v": shared, "y": rows}, site.dtype), _net(apart, spelled, site.dtype)


def _net(ops: Sequence[Op], shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Net:
    values = {name: Value(name, shape, dtype) for name, shape in shapes.items()}
    return Net({op.id: op for op in ops}, values, ("q", "k", "v"), ("y",))
