"""`find_conv`: every convolution (also transposed) with a constant kernel, and the batch norm behind it that could be folded into it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from ..cost_model.net import Net, Op
from ..cost_model.sites import ConvSite, ElementwiseSite, Miss
from .constants import FLOATS
from .find_linear import plain_add
from .site_names import site_names

KIND = "conv"
Coded = TypeVar("Coded", ConvSite, ElementwiseSite)


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
        ops: tuple[str, ...] = (op.id,)
        output = op.output
        added = None if bias else _bias_behind(net, op)
        if added is not None:
            ops, output, bias = (op.id, added[0].id), added[0].output, added[1]
        return with_activation(net, ConvSite(op.id, ops, op.inputs[0], weight, bias, output, "", _groups(op), dtype))
    view = first_result(net, norm)
    ops = (op.id, norm.id, *((view.id,) if view else ()))
    output = view.output if view else norm.output
    return with_activation(net, ConvSite(op.id, ops, op.inputs[0], weight, bias, output, norm.id, _groups(op), dtype))


def _bias_behind(net: Net, op: Op) -> tuple[Op, str] | None:
    """The addition of a constant to each channel that alone reads what a convolution writes, and that constant; None if there is none."""
    readers, shape = net.consumers(op.output), net.shape(op.inputs[1])
    if (
        len(readers) != 1
        or not plain_add(readers[0])
        or shape is None
        or op.attributes.get("transposed")
        or net.returns(op.output)
    ):
        return None
    if op.attributes.get("activation"):
        return None
    found = [name for name in readers[0].inputs if name != op.output and _constant(net, name)]
    # [1, M, 1, 1] or [M, 1, 1]: one number for each channel.
    channels = (shape[0], *(1,) * (len(shape) - 2))
    held = net.shape(found[0]) if found else None
    return (readers[0], found[0]) if held is not None and held in (channels, (1, *channels)) else None


def with_activation(net: Net, site: Coded) -> Coded:
    """The site with the clip around zero behind it, if that alone reads its output."""
    readers = net.consumers(site.output)
    if len(readers) != 1 or net.returns(site.output) or readers[0].kind not in ("relu", "clip"):
        return site
    clip = readers[0]
    low, high = (0.0, math.inf) if clip.kind == "relu" else _limits(clip)
    if not low <= 0 <= high or low == high:
        return site
    return replace(site, activation=clip.id, activated=clip.output, low=low, high=high)


def _limits(clip: Op) -> tuple[float, float]:
    """The limits of a clip, nan where one is computed."""
    found = [clip.attributes.get(name) for name in ("min", "max")]
    given = [index < len(clip.inputs) and bool(clip.inputs[index]) for index in (1, 2)]
    none = (-math.inf, math.inf)
    low, high = (
        float(value) if value is not None else math.nan if there else without
        for value, there, without in zip(found, given, none, strict=True)
    )
    return low, high


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
