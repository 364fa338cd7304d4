"""Puts convolutions, and adds, Gelus and means between them, on u8 codes: actions "int8_conv", "int8_add", "int8_gelu" and "int8_mean";
values stay in codes from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import onnx_ir as ir

from ..cost_model.errors import InputError
from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.plan import Choice
from ..cost_model.sites import CodedSite, ConvSite, ElementwiseSite, Site
from ..kernels.onnx_forms import CONV
from ..kernels.quantized_conv.codes import Codes
from ..kernels.quantized_conv.elementwise import ACTIONS as ELEMENTWISE
from ..kernels.quantized_conv.elementwise import PreparedElementwise
from ..kernels.quantized_conv.formats import ACTION, PreparedConv
from ..kernels.quantized_conv.onnx_body import CodedValue
from .chosen import members
from .onnx_between_codes import fuse_gelu, keep_float
from .onnx_coded_parts import CodedParts
from .onnx_pass import OnnxPass, Surgeon

ON_CODES = frozenset({ACTION, *ELEMENTWISE.values()})
"""The actions of sites that read and write codes."""


@dataclass(eq=False)
class _Codes:
    """A model whose sites are put on codes one after the other. `coded`: values and the codes that some site reads or wrote. `passed`: ops
    on floats that codes stand for."""

    surgeon: Surgeon
    parts: CodedParts
    coded: dict[str, CodedValue] = field(default_factory=dict)
    passed: list[ir.Node] = field(default_factory=list)


@dataclass(frozen=True)
class QuantizeConvs(OnnxPass):
    """1. A convolution, its batch norm and the clip behind them: one QLinearConv on codes with the channels last, or in standard ONNX one
    Conv between DequantizeLinear and QuantizeLinear; adds, Gelus and means in like manner. 2. What it reads in codes is what another
    wrote, else quantised once for all its readers; what it writes is floating point again only where something reads it so. 3. For
    onnxruntime maxima of windows and channels side by side stay in codes from what wrote them to what reads them, and what stays in
    floating point between codes gets the forms of `onnx_between_codes`.

    `prepared` maps the id of each site to what it becomes.
    """

    name: ClassVar[str] = "onnx_quantize_conv"
    prepared: Mapping[str, Any] = field(default_factory=dict, repr=False)
    style: OnnxStyle = OnnxStyle.runtime

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the sites. Raises InputError for a site that `prepared` does not have."""
        surgeon = Surgeon(model)
        found = [site for choice in choices if choice.action in ON_CODES for site in members(choice, sites)]
        place = {node.name: index for index, node in enumerate(surgeon.graph)}
        pending = [site for site in found if isinstance(site, CodedSite) and surgeon.pending(site)]
        # Producers first: what a site reads in codes is there when its turn comes.
        pending.sort(key=lambda site: place[site.ops[0]])
        codes = _Codes(surgeon, CodedParts({op for site in pending for op in site.ops}))
        ends = [self._replace(codes, site) for site in pending]
        surgeon.sweep([*codes.passed, *ends])
        for site in sites.values() if self.style is OnnxStyle.runtime else ():
            if isinstance(site, ElementwiseSite) and site.function == "gelu" and codes.parts.results.keys() & site.reads:
                fuse_gelu(surgeon, site)
        if pending and self.style is OnnxStyle.runtime:
            keep_float(surgeon)
        for domain, version in CONV[self.style].runtime_domain_imports().items() if pending else ():
            surgeon.import_domain(domain, version)
        surgeon.close()
        return len(pending)

    def _replace(self, at: _Codes, site: CodedSite) -> ir.Node:
        """Puts the site on codes, and gives the node that makes a float of its result."""
        surgeon, form, made = at.surgeon, CONV[self.style], self.prepared.get(site.id)
        shape = surgeon.value(site.result).shape
        if isinstance(site, ConvSite) and isinstance(made, PreparedConv):
            # At other sizes than the sample's SAME stands for other pads.
            same = surgeon.nodes[site.ops[0]].attributes.get_string("auto_pad", "") or ""
            made = replace(made, geometry=replace(made.geometry, auto_pad=same if same.startswith("SAME") else ""))
            name, rank = f"{site.id}.{ACTION}", made.weight.ndim
            start, x = self._coded(at, site.x, made.x, rank, name)
            body = form.conv_nodes(made, x, name, shape)
        elif isinstance(site, ElementwiseSite) and isinstance(made, PreparedElementwise):
            # Ranks come with what was prepared: values between the ops of a file need not have shapes.
            name, rank = f"{site.id}.{made.action}", made.result_rank
            start, read = [], []
            for place, (value, codes) in enumerate(zip(site.reads, made.reads, strict=True)):
                nodes, x = self._coded(at, value, codes, made.rank, f"{name}.{place}")
                start += nodes
                read.append(x)
            body = form.elementwise_nodes(made, read, name, shape)
        else:
            raise InputError(f"The choice at {site.id} is to run on codes, but what that takes was not prepared.")
        nodes, back, initializers = form.dequantize_nodes(body.output, rank, name)
        surgeon.adopt([*body.initializers, *initializers])
        whole = replace(site, ops=(*site.ops, site.activation)) if site.activation else site
        surgeon.replace([whole], [*start, *body.nodes, *nodes], {site.result: back})
        at.coded[site.result] = at.parts.results[site.result] = body.output
        return nodes[-1]

    def _coded(self, at: _Codes, name: str, codes: Codes, rank: int, prefix: str) -> tuple[list[ir.Node], CodedValue]:
        """A value in codes, and the nodes that make them where nothing has yet."""
        known, value = at.coded.get(name), at.surgeon.value(name)
        if known is not None and known.codes == codes:
            return [], known
        found = at.parts.joined(value, codes, rank, f"{prefix}.x") if self.style is OnnxStyle.runtime else None
        body, passed = found or (CONV[self.style].quantize_nodes(value, codes, rank, f"{prefix}.x"), [])
        at.passed += passed
        at.surgeon.adopt(body.initializers)
        at.coded.setdefault(name, body.output)
        return body.nodes, body.output


def on_codes_alone(model: ir.Model) -> ir.Model:
    """A model of sites on codes without the conversions at its edges, in place: its inputs and outputs are codes, so that its time is
    that of the sites in the middle of a chain."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if source is None or not source.is_graph_input():
            continue
        reader = next(user for user, _ in node.outputs[0].uses())
        conversion = [reader, node] if reader.op_type == "Transpose" else [node]
        old = conversion[0].outputs[0]
        fresh = ir.Value(name=f"{source.name}.codes", shape=old.shape, type=ir.TensorType(ir.DataType.UINT8))
        old.replace_all_uses_with(fresh)
        graph.inputs.append(fresh)
        graph.remove(conversion, safe=True)
        if not source.uses():
            graph.inputs.remove(source)
    for position, value in enumerate(tuple(graph.outputs)):
        back = value.producer()
        if back is None or back.op_type != "DequantizeLinear" or back.inputs[0] is None:
            continue
        first = back.inputs[0].producer()
        assert first is not None
        conversion = [back, first] if first.op_type == "Transpose" else [back]
        held = conversion[-1].inputs[0]
        assert held is not None
        graph.outputs[position] = held
        graph.remove(conversion, safe=True)
    return model
