"""`find_conv`: every convolution (also transposed) with a constant kernel, and the batch norm behind it that could be folded into it."""

from __future__ import annotations

from dataclasses import replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import ConvSite, Miss
from .constants import FLOATS
from .site_names import site_names

KIND = "conv"


def find_conv(net: Net) -> tuple[tuple[ConvSite, ...], tuple[Miss, ...]]:
    """The convolution sites of the main graph in topological order, and a Miss for every convolution that is none.

    A batch norm that stands behind one convolution and cannot be folded gets a Miss too. Linear in the number of ops.
    """
    sites: list[ConvSite] = []
    misses: list[Miss] = []
    anchors: list[Op] = []
    for op in net.ops.values():
        if op.kind == "batch_norm":
            refused = _unfoldable(net, op)
            if refused:
                misses.append(Miss(op.id, KIND, refused))
        if op.kind != "conv":
            continue
        found = _site(net, op)
        if isinstance(found, ConvSite):
            sites.append(found)
            anchors.append(op)
        else:
            misses.append(Miss(op.id, KIND, found))
    names = site_names(anchors)
    return tuple(replace(site, id=names[site.id]) for site in sites), tuple(misses)


def _site(net: Net, op: Op) -> ConvSite | str:
    weight, bias = op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else ""
    name, dtype = f"Convolution {op.id}", net.values[op.output].dtype or ""
    if not _constant(net, weight):
        return f"{name} has a computed kernel, so that nothing can be prepared ahead of time."
    if bias and not _constant(net, bias):
        return f"{name} has a computed bias, so that nothing can be prepared ahead of time."
    if dtype not in FLOATS:
        return f"{name} works on {dtype}; number formats and folding are for floating point."
    readers = net.consumers(op.output)
    norm = readers[0] if len(readers) == 1 and readers[0].kind == "batch_norm" else None
    if norm is None or _unfoldable(net, norm):
        return ConvSite(op.id, (op.id,), op.inputs[0], weight, bias, op.output, "", _groups(op), dtype)
    view = first_result(net, norm)
    ops = (op.id, norm.id, *((view.id,) if view else ()))
    output = view.output if view else norm.output
    return ConvSite(op.id, ops, op.inputs[0], weight, bias, output, norm.id, _groups(op), dtype)


def first_result(net: Net, op: Op) -> Op | None:
    """The op that picks the first of several outputs, where that is how a graph reads it (FX); None where it is read directly."""
    readers = net.consumers(op.output)
    picks = [reader for reader in readers if reader.kind == "identity" and reader.attributes.get("index") == 0]
    return picks[0] if len(picks) == 1 and len(readers) == 1 else None


def _unfoldable(net: Net, norm: Op) -> str:
    """Why a batch norm behind a convolution cannot be folded into it; "" if it can, or if no convolution is before it."""
    before = net.producer(norm.inputs[0])
    if before is None or before.kind != "conv":
        return ""
    name = f"Batch norm {norm.id}"
    if norm.attributes.get("training_mode") or norm.attributes.get("training"):
        return f"{name} computes its statistics from the batch: the model was traced in training mode; trace it in evaluation mode."
    if len(net.consumers(before.output)) > 1 or before.output in net.outputs:
        return f"{name} cannot be folded into convolution {before.id}, whose output is read elsewhere too."
    computed = [value for value in norm.inputs[1:] if value and not _constant(net, value)]
    if computed:
        return f"{name} cannot be folded into convolution {before.id}: its parameter {computed[0]} is computed."
    if before.attributes.get("activation"):
        return f"{name} cannot be folded into convolution {before.id}, which ends in a fused {before.attributes['activation']}."
    return ""


def _constant(net: Net, value: str) -> bool:
    found = net.values.get(value)
    return found is not None and found.constant


def _groups(op: Op) -> int:
    return int(op.attributes.get("groups", 1))
