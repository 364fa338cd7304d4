"""What stays in floating point between values in codes, in the forms that onnxruntime's optimiser leaves as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ..cost_model.sites import ElementwiseSite
from .onnx_pass import MICROSOFT, Surgeon, operation

GEOMETRY = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
GREATEST = float(np.finfo(np.float32).max)
MOVES = frozenset(["MaxPool", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice"])
"""Ops that onnxruntime moves QuantizeLinear and DequantizeLinear through."""


def fuse_gelu(surgeon: Surgeon, site: ElementwiseSite) -> None:
    """com.microsoft.Gelu in the place of the five ops that exporters write, if they are still there: onnxruntime gives every reader of a
    DequantizeLinear one of its own, before it looks for a Gelu, which reads x twice."""
    if len(site.ops) > 1 and surgeon.pending(site):
        node = operation("Gelu", [surgeon.value(site.reads[0])], f"{site.ops[-1]}.gelu", domain=MICROSOFT)
        surgeon.replace([site], [node], {site.output: node.outputs[0]})
        surgeon.import_domain(MICROSOFT)


def keep_float(surgeon: Surgeon) -> int:
    """com.microsoft.FusedConv in the place of each convolution, with its bias and clip, between a DequantizeLinear and QuantizeLinears; how
    many. Of a Conv there onnxruntime rounds the weights to int8 itself, with one scale for all channels: that moved the outputs of
    EfficientNet-Lite0 by 0.25 (relative squared error) at one depthwise convolution. It has no other form of a ConvTranspose. Weights that
    are codes already are let be."""
    floats = [node for node in surgeon.graph if node.op_type == "Conv" and not node.domain and _weight(node) is not None]
    return sum(_fused(surgeon, node) for node in floats if _from_codes(node.inputs[0]))


def _fused(surgeon: Surgeon, conv: ir.Node) -> bool:
    last, bias = conv, None
    settings: dict[str, Any] = {}
    while (reader := _only_reader(last)) is not None:
        if last is conv and len(conv.inputs) == 2 and (bias := _bias(conv, reader)) is not None:
            last = reader
        elif not settings and (limits := _limits(surgeon, reader)) is not None:
            last, settings = reader, limits
        else:
            break
    result = last.outputs[0]
    if result.is_graph_output() or not _to_codes(result):
        return False
    inputs = [*conv.inputs, *([] if bias is None else [surgeon.constant(f"{conv.name}.bias", bias)])]
    geometry: dict[str, Any] = {name: conv.attributes[name].value for name in GEOMETRY if name in conv.attributes}
    node = operation("FusedConv", inputs, f"{conv.name}.fused", domain=MICROSOFT, **geometry, **settings)
    surgeon.graph.insert_before(last, node)
    node.outputs[0].shape, node.outputs[0].type = result.shape, result.type
    node.metadata_props.update(conv.metadata_props)
    result.replace_all_uses_with(node.outputs[0])
    surgeon.nodes[str(node.name)] = node
    surgeon.sweep([last])
    surgeon.import_domain(MICROSOFT)
    return True


def _weight(conv: ir.Node) -> ir.TensorProtocol | None:
    """The float32 constant that a convolution multiplies by; None where it is computed, or made of codes."""
    weight = conv.inputs[1].const_value if conv.inputs[1] is not None else None
    return weight if weight is not None and weight.dtype == ir.DataType.FLOAT else None


def _from_codes(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _to_codes(value: ir.Value) -> bool:
    """Whether some reader, behind moves, makes codes of a value."""
    readers = [node for node, _ in value.uses()]
    return any(node.op_type == "QuantizeLinear" or (node.op_type in MOVES and _to_codes(node.outputs[0])) for node in readers)


def _only_reader(node: ir.Node) -> ir.Node | None:
    """The one reader of a node's result; None where there are several, or where it is an output."""
    readers = list(dict.fromkeys(user for user, _ in node.outputs[0].uses()))
    return readers[0] if len(readers) == 1 and not node.outputs[0].is_graph_output() else None


def _bias(conv: ir.Node, add: ir.Node) -> np.ndarray | None:
    """The constant that an Add behind a convolution adds to each channel, float32 [M]; None where it adds anything else."""
    weight = _weight(conv)
    held = [value.const_value for value in add.inputs if value is not None and value is not conv.outputs[0]]
    if add.op_type != "Add" or weight is None or len(held) != 1 or held[0] is None:
        return None
    array = held[0].numpy()
    channels = (weight.numpy().shape[0], *(1,) * (len(weight.shape) - 2))
    return array.reshape(-1) if array.shape in (channels, (1, *channels)) else None


def _limits(surgeon: Surgeon, clip: ir.Node) -> dict[str, Any] | None:
    """The attributes of FusedConv for a Relu or a Clip; None for other ops, and where a limit is computed."""
    if clip.op_type not in ("Relu", "Clip"):
        return None
    if clip.op_type == "Relu":
        return {"activation": "Relu"}
    limits = [clip.attributes.get_float(name, default) for name, default in (("min", -math.inf), ("max", math.inf))]
    for place, value in enumerate(clip.inputs[1:]):
        if value is not None:
            number = surgeon.scalar(str(value.name))
            if number is None:
                return None
            limits[place] = number
    low, high = limits
    return {"activation": "Clip", "activation_params": [max(low, -GREATEST), min(high, GREATEST)]}
