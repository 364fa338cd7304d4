"""`find_embedding`: every lookup of rows of a constant table, and a Miss for the tables that stay as they are."""

from __future__ import annotations

import math
from dataclasses import replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import EmbeddingSite, Miss
from .constants import FLOATS
from .site_names import site_names

KIND = "embedding"
SMALLEST_BYTES = 1 << 20
"""Tables below it stay in a cache as they are."""


def find_embedding(net: Net) -> tuple[tuple[EmbeddingSite, ...], tuple[Miss, ...]]:
    """The lookups of the main graph in topological order. Linear in the number of ops.

    1. The table is a constant [V, D] of floats of `SMALLEST_BYTES` or more. 2. Nothing else reads it: a table that is tied to another
    op would be kept twice, in codes and in floats."""
    sites: list[EmbeddingSite] = []
    misses: list[Miss] = []
    anchors: list[Op] = []
    for op in net.ops.values():
        if op.kind != "embedding":
            continue
        found = _site(net, op)
        if isinstance(found, str):
            misses.append(Miss(op.id, KIND, found))
        else:
            sites.append(found)
            anchors.append(op)
    names = site_names(anchors)
    return tuple(replace(site, id=names[site.id]) for site in sites), tuple(misses)


def _site(net: Net, op: Op) -> EmbeddingSite | str:
    name, (table, indices) = f"Embedding {op.id}", op.inputs[:2]
    kept, shape = net.shape(table), net.shape(indices)
    found = net.values.get(table)
    if found is None or not found.constant or kept is None or len(kept) != 2:
        return f"{name} looks rows up in a table that is computed; number formats are for constant tables."
    dtype = found.dtype or ""
    if dtype not in FLOATS:
        return f"{name} has a table of {dtype}; number formats are for floating point."
    if math.prod(kept) * FLOATS[dtype] < SMALLEST_BYTES:
        return f"{name} has a table of {kept[0]} x {kept[1]}, which stays in a cache as it is."
    others = [reader for reader in net.consumers(table) if reader.id != op.id]
    if others:
        return f"{name} shares its table with {others[0].id}: in integer codes it would be kept twice, so they stay tied, in floats."
    if table in net.outputs or op.output in net.outputs:
        return f"{name} is an output of the model, which stays as it is."
    return EmbeddingSite(op.id, (op.id,), indices, table, op.output, kept[0], kept[1], math.prod(shape or ()), dtype)
