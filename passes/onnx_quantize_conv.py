"""Puts convolutions on u8 codes: action "int8_conv"; values stay in codes from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.plan import Choice
from ..cost_model.sites import ConvSite, Site
from ..kernels.quantized_conv.codes import Codes
from ..kernels.quantized_conv.formats import ACTION, PreparedConv
from ..kernels.quantized_conv.onnx_body import (
    RUNTIME_DOMAIN,
    CodedValue,
    conv_nodes,
    dequantize_nodes,
    quantize_nodes,
)
from .onnx_gelu import fuse_gelu
from .onnx_pass import OnnxPass, Surgeon, members


@dataclass(frozen=True)
class QuantizeConvs(OnnxPass):
    """1. A convolution, its batch norm and the clip behind them: one QLinearConv on codes with the channels last. 2. What
    it reads in codes is what another wrote, else quantised once for all its readers; what it writes is floating point again only where
    something reads it so. 3. A Gelu behind that stays one op for onnxruntime.

    `prepared` maps the id of each site to what it becomes.
    """

    name: ClassVar[str] = "onnx_quantize_conv"
    prepared: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites. Raises InputError for a site that `prepared` does not have."""
        surgeon = Surgeon(model)
        found = [site for choice in choices if choice.action == ACTION for site in members(choice, sites)]
        place = {node.name: index for index, node in enumerate(surgeon.graph)}
        pending = [site for site in found if isinstance(site, ConvSite) and surgeon.pending(site)]
        # Producers first: what a site reads in codes is there when its turn comes.
        pending.sort(key=lambda site: place[site.ops[0]])
        coded: dict[str, CodedValue] = {}
        ends: list[ir.Node] = []
        for site in pending:
            ends.append(self._replace(surgeon, site, coded))
        surgeon.sweep(ends)
        for node in ends:
            if node.graph is surgeon.graph:
                fuse_gelu(surgeon, node.outputs[0])
        if pending:
            surgeon.import_domain(RUNTIME_DOMAIN)
        surgeon.close()
        return len(pending)

    def _replace(self, surgeon: Surgeon, site: ConvSite, coded: dict[str, CodedValue]) -> ir.Node:
        """Puts the site on codes, and gives the node that makes a float of its result."""
        made = self.prepared.get(site.id)
        if not isinstance(made, PreparedConv):
            raise InputError(f"The choice at {site.id} is {ACTION}, but its weights were not prepared.")
        name, rank = f"{site.id}.{ACTION}", made.weight.ndim
        start, x = _coded(surgeon, site.x, made.x, rank, name, coded)
        body = conv_nodes(made, x, name)
        shape = surgeon.value(site.result).shape
        if shape is not None:
            body.output.value.shape = ir.Shape([shape[0], *shape[2:], shape[1]])
        nodes, back, initializers = dequantize_nodes(body.output, rank, name)
        surgeon.adopt([*body.initializers, *initializers])
        whole = replace(site, ops=(*site.ops, site.activation)) if site.activation else site
        surgeon.replace([whole], [*start, *body.nodes, *nodes], {site.result: back})
        coded[site.result] = body.output
        return nodes[-1]


def _coded(
    surgeon: Surgeon, name: str, codes: Codes, rank: int, prefix: str, coded: dict[str, CodedValue]
) -> tuple[list[ir.Node], CodedValue]:
    """A value in codes, and the nodes that make them where nothing has yet."""
    known = coded.get(name)
    if known is not None and known.codes == codes:
        return [], known
    body = quantize_nodes(surgeon.value(name), codes, rank, f"{prefix}.x")
    surgeon.adopt(body.initializers)
    coded.setdefault(name, body.output)
    return body.nodes, body.output


def on_codes_alone(model: ir.Model) -> ir.Model:
    """A model of sites on codes without the conversions at its edges, in place: its inputs and outputs are codes, so that its time is
    that of the sites in the middle of a chain."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if source is None or not source.is_graph_input():
            continue
        moved = next(user for user, _ in node.outputs[0].uses())
        old = moved.outputs[0]
        fresh = ir.Value(name=f"{source.name}.codes", shape=old.shape, type=ir.TensorType(ir.DataType.UINT8))
        old.replace_all_uses_with(fresh)
        graph.inputs.append(fresh)
        graph.remove([moved, node], safe=True)
        if not source.uses():
            graph.inputs.remove(source)
    for position, value in enumerate(tuple(graph.outputs)):
        back = value.producer()
        if back is None or back.op_type != "DequantizeLinear" or back.inputs[0] is None:
            continue
        first = back.inputs[0].producer()
        held = first.inputs[0] if first is not None else None
        assert first is not None
        assert held is not None
        graph.outputs[position] = held
        graph.remove([back, first], safe=True)
    return model
