"""`find_region`: groups of small ops that one kernel could do; so far a residual add with the layer norm behind it."""

from __future__ import annotations

from dataclasses import replace

from ..cost_model.net import Net, Op
from ..cost_model.sites import Miss, Region
from .constants import FLOATS
from .find_conv import first_result
from .site_names import site_names

KIND = "region"
RESIDUAL_NORM = "residual_norm"


def find_region(net: Net) -> tuple[tuple[Region, ...], tuple[Miss, ...]]:
    """The regions of the main graph in topological order, and a Miss for every norm behind an add that is none.

    `reads` of a residual norm are (a, b, weight, bias or ""), `writes` (the norm, and the sum where it is read elsewhere).
    Linear in the number of ops.
    """
    sites: list[Region] = []
    misses: list[Miss] = []
    anchors: list[Op] = []
    taken: set[str] = set()
    for op in net.ops.values():
        if op.kind not in ("layer_norm", "rms_norm"):
            continue
        add = net.producer(op.inputs[0])
        if add is None or add.kind != "add":
            continue
        refused = _refusal(net, op, add, taken)
        if refused:
            misses.append(Miss(op.id, KIND, refused))
        else:
            sites.append(_residual_norm(net, op, add))
            anchors.append(op)
            taken.add(add.id)
    names = site_names(anchors)
    return tuple(replace(site, id=names[site.id]) for site in sites), tuple(misses)


def _refusal(net: Net, norm: Op, add: Op, taken: set[str]) -> str:
    name = f"Norm {norm.id} behind add {add.id}"
    if norm.kind == "rms_norm":
        return f"{name} is an RMS norm; only a layer norm can be joined with its add yet."
    if norm.attributes.get("axis", -1) != -1:
        return f"{name} runs over more than the last axis, which no fused kernel does."
    if add.id in taken:
        return f"{name} shares that add with another norm, which was joined with it already."
    if len(add.inputs) != 2 or add.attributes.get("alpha", 1) != 1:
        return f"{name} does not add two plain operands."
    shapes = [net.shape(value) for value in add.inputs]
    if any(net.values[value].constant for value in add.inputs):
        return f"{name} is no residual: one operand of the add is a constant."
    if shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) < 2:
        return f"{name} adds operands of shapes {shapes[0]} and {shapes[1]}; a residual has two equal ones."
    parameters = [net.values.get(value) for value in norm.inputs[1:] if value]
    if not parameters or any(p is None or not p.constant or p.shape != shapes[0][-1:] for p in parameters):
        return f"{name} has no constant weight of {shapes[0][-1]} numbers, which the fused kernel takes."
    if any(net.consumers(value) or value in net.outputs for value in norm.outputs[1:]):
        return f"{name} gives its mean or variance out too."
    if net.values[add.output].dtype not in FLOATS:
        return f"{name} works on {net.values[add.output].dtype}; the fused kernel is for floating point."
    return ""


def _residual_norm(net: Net, norm: Op, add: Op) -> Region:
    weight, bias, *_ = (*norm.inputs[1:], "", "")
    view = first_result(net, norm)
    shared = len(net.consumers(add.output)) > 1 or add.output in net.outputs
    writes = (view.output if view else norm.output, *((add.output,) if shared else ()))
    ops = (add.id, norm.id, *((view.id,) if view else ()))
    return Region(norm.id, RESIDUAL_NORM, ops, (*add.inputs, weight, bias), writes, net.values[add.output].dtype or "")
