"""Each option of a site as a small graph of its own: cut out of the model, rewritten by the very passes that would rewrite the
model, then timed on the real runtime or priced from its ops."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cost_model.device import Device
from ..cost_model.net import Net
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, EmbeddingSite
from ..kernels.low_rank.factors import SHARES
from ..kernels.low_rank.factors import stand_in as stand_in_factors
from ..kernels.quantized_embedding.formats import BITS
from ..kernels.quantized_embedding.formats import stand_in as stand_in_table
from ..kernels.quantized_linear.formats import CALIBRATED, EVERY_FORMAT, prepare_group
from ..kernels.spectral_attention.crossover import stand_in as stand_in_site
from ..passes.onnx_quantize_conv import ON_CODES, on_codes_alone
from .backend import EXACT_ACTIONS, Arrays, Backend, Group
from .conv_weights import coded_stand_in
from .score import linear_bias, linear_weight

ROUNDS = 5

# One sample lasts at least this long; shorter ones drown in the timer and the wake-up of threads.
SAMPLE_SECONDS = 0.012
# onnxruntime learns where to put a model's tensors in the first call, and makes room for them in the second: dense attention over
# 4,096 tokens took 511 and 482 ms in these, and 179 ms in each one behind them.
WARM_UP_CALLS = 2


def format_of(action: str) -> str:
    """The number format inside a linear action: "int8_static" for "int8_static_merged", "" for an exact one."""
    name = action.removesuffix("_merged")
    return name if name in EVERY_FORMAT else ""


def scored_as(action: str) -> str:
    """The name under which the error of an action is measured: its number format, or itself; "" for an exact one."""
    return "" if action in EXACT_ACTIONS else format_of(action) or action


def stand_in(group: Group, net: Net, action: str) -> dict[str, Any]:
    """What an inexact rewrite needs, for timing alone: weights rounded to nearest and a made-up input range, or codebooks of random
    rows (the numbers do not change the time)."""
    if action == "spectral_sparse":
        return {site.id: stand_in_site(site, site.key_length) for site in group.sites if isinstance(site, AttentionSite)}
    if action in ON_CODES:
        return coded_stand_in(group, net)
    if action in BITS:
        tables = [site for site in group.sites if isinstance(site, EmbeddingSite)]
        return {site.id: stand_in_table(action, site.rows, site.width) for site in tables}
    name = format_of(action)
    if not name and action not in SHARES:
        return {}
    sites = group.linears
    weights, biases = [linear_weight(net, s) for s in sites], [linear_bias(net, s) for s in sites]
    if action in SHARES:
        return {site.id: part for site, part in zip(sites, stand_in_factors(action, weights, biases), strict=True)}
    made = prepare_group("int8_dynamic" if name in CALIBRATED else name, weights, biases, None)
    if name in CALIBRATED:
        made = [replace(each, action=name, scalars={"scale": 1 / 32, "zero": 128, "migrated": 0}) for each in made]
    return {site.id: prepared for site, prepared in zip(sites, made, strict=True)}


def candidate(backend: Backend, graph: Any, net: Net, group: Group, action: str, device: Device) -> Any | None:
    """The group's ops alone, and what a kernel of `device` may take along, with `action` applied, on codes without the conversions at its
    edges; None where no pass could apply it."""
    micro = backend.extract(graph, net, backend.footprint(group, net, device))
    if action == "leave":
        return micro
    choice = Choice(group.id, group.kind, action, (), tuple(site.id for site in group.sites), backend.runtime, "")
    sites = {site.id: site for site in group.sites}
    passes = backend.passes(stand_in(group, net, action))
    changed = sum(rewrite.apply(micro, [choice], sites) for actions, rewrite in passes if action in actions)
    if not changed:
        return None
    return on_codes_alone(micro) if action in ON_CODES else micro


def signature(backend: Backend, net: Net) -> str:
    """A key that is equal for graphs that do the same work: runtime, ops, attributes, shapes and dtypes, no names."""

    def described(value: str) -> Any:
        found = net.values.get(value)
        return [list(found.shape or ()), found.dtype, found.constant] if found else None

    ops = [
        [op.target, sorted((k, str(v)) for k, v in op.attributes.items()), [described(v) for v in op.inputs]]
        for op in net.ops.values()
    ]
    digest = hashlib.sha256(json.dumps(ops).encode()).hexdigest()[:24]
    return f"{backend.runtime}/{digest}"


@cache
def code_digest() -> str:
    """A short hash of the kernels and passes of this installation."""
    package = Path(__file__).parent.parent
    sources = sorted(path for room in ("kernels", "passes") for path in (package / room).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def times_belong_to(backend: Backend) -> str:
    """What a time belongs to besides the work: the code that made the candidate, and the style that it is written in."""
    return f"{code_digest()}/{backend.style}" if backend.style else code_digest()


def random_feeds(net: Net) -> Arrays:
    """Random inputs for a cut-out graph: normal floats, rows drawn from the table for lookups, ones for everything else (booleans attend,
    integers index row 1)."""
    generator = np.random.default_rng(0)
    feeds = {}
    for name in net.inputs:
        value = net.values[name]
        shape, dtype = value.shape or (), np.dtype(value.dtype or "float32")
        tables = [net.shape(each) for op in net.consumers(name) if op.kind == "embedding" for each in op.inputs if each != name]
        rows = min((table[0] for table in tables if table), default=1)
        if dtype.kind == "f":
            feeds[name] = generator.standard_normal(shape).astype(dtype)
        else:
            feeds[name] = np.ones(shape, dtype) if rows == 1 else generator.integers(0, rows, shape).astype(dtype)
    return feeds


def time_in_turn(backend: Backend, graphs: Mapping[str, tuple[Any, Arrays]]) -> dict[str, list[float]]:
    """Seconds per call of each graph, the median of each round. Only one session lives at a time, in turn over the rounds, so that
    neither a neighbour's threads nor a drift of the machine favours one."""
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(ROUNDS):
        for name in list(graphs) if turn % 2 == 0 else list(graphs)[::-1]:
            graph, feeds = graphs[name]
            with backend.runner(graph) as run:
                for _ in range(WARM_UP_CALLS):
                    run(feeds)
                laps: list[float] = []
                while not laps or (sum(laps) < SAMPLE_SECONDS and len(laps) < 200):
                    started = time.perf_counter()
                    run(feeds)
                    laps.append(time.perf_counter() - started)
                samples[name].append(statistics.median(laps))
    return samples
