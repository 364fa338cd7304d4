"""The onnxruntime backend: which rewrites it has, and how its graphs are viewed, run, probed, cut and printed."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..cost_model.device import Device
from ..cost_model.errors import SzilardError
from ..cost_model.net import Net
from ..cost_model.onnx_style import OnnxStyle
from ..cost_model.sites import AttentionSite, CodedSite, ConvSite, ElementwiseSite, EmbeddingSite, LinearSite
from ..cost_model.view_onnx import view_onnx
from ..kernels.low_rank.factors import SHARES
from ..kernels.quantized_conv.elementwise import ACTIONS as ELEMENTWISE
from ..kernels.quantized_conv.formats import ACTION as INT8_CONV
from ..kernels.quantized_embedding.formats import BITS
from ..kernels.quantized_embedding.formats import refusal as table_refusal
from ..kernels.quantized_linear.formats import FORMATS, INTEGER_INPUTS
from ..kernels.quantized_linear.half_formats import HALF_FORMATS
from ..kernels.spectral_attention.crossover import longest_length
from ..kernels.spectral_attention.crossover import refusal as sparse_refusal
from ..passes.onnx_attention import FuseAttention, layout_ops
from ..passes.onnx_attention import refusal as attention_refusal
from ..passes.onnx_batch_norm import FoldBatchNorm
from ..passes.onnx_clean_up import CleanUp
from ..passes.onnx_extract import extract
from ..passes.onnx_keyed_attention import MaskInKeys
from ..passes.onnx_keyed_attention import refusal as keyed_refusal
from ..passes.onnx_low_rank import LowRankLinears
from ..passes.onnx_merge_linear import MergeLinear
from ..passes.onnx_quantize_conv import ON_CODES, QuantizeConvs
from ..passes.onnx_quantize_embedding import QuantizeEmbeddings
from ..passes.onnx_quantize_linear import QuantizeLinears
from ..passes.onnx_residual_norm import RewriteResidualNorm
from ..passes.onnx_sparse_attention import SparsifyAttention
from ..passes.onnx_unfold_heads import unfold_heads
from .backend import FORMAT_ACTIONS, Arrays, Group, Pass, Probe, Runner
from .cuda_formats import cuda_formats, only_checked
from .normal_onnx import float_dtypes
from .print_onnx import print_onnx
from .raise_opset import raise_opset
from .runtime_onnx import LARGEST_INLINE_BYTES, onnx_probe, onnx_runner, save_model, weight_bytes
from .standard_onnx import OPSET, standard_refusals
from .structure_options import structure_actions

QUANTIZE_OPSETS = {"int8_dynamic": 11, "int8_static": 10, "int8_token": 10, "int8_hilo": 10, INT8_CONV: 10}
"""Action -> the operator set that has the standard operators which make codes of its input."""
CHECK_FAULTS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)


class OnnxBackend:
    """onnxruntime over onnx_ir models; `sample` are inputs of the whole model, `style` says in which operators rewrites are written. See
    `backend.Backend` for what each method promises."""

    runtime = "onnxruntime"

    def __init__(self, sample: Arrays | None = None, style: OnnxStyle = OnnxStyle.runtime) -> None:
        self._sample = dict(sample or {})
        self._declares_what_is_inferred = True
        self.style = style
        self._stays = ""

    def view(self, graph: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Net:
        """The sample's own values, repeated or cut to `shapes`, find the shapes that inference cannot."""
        own = {str(value.name) for value in graph.graph.inputs}
        if own != set(self._sample) or own != set(shapes):
            return view_onnx(graph, shapes)
        return view_onnx(graph, shapes, {name: np.resize(self._sample[name], shapes[name]) for name in own})

    def clone(self, graph: ir.Model) -> ir.Model:
        return graph.clone()

    def clean_up(self, graph: ir.Model) -> int:
        """onnxruntime runs models that declare other shapes than inference finds: such a one is held to the plain check ever after. For
        rewrites in standard ONNX the model is brought to an operator set that has them, where it can be."""
        if self.style is OnnxStyle.qdq:
            self._stays = raise_opset(graph, OPSET, self._sample)
        try:
            _check(graph, full=True)
        except CHECK_FAULTS:
            self._declares_what_is_inferred = False
        changed = CleanUp().apply(graph, (), {})
        return changed + unfold_heads(graph, self.view(graph, {name: each.shape for name, each in self._sample.items()}))

    def lint(self, graph: ir.Model) -> None:
        """onnx.checker on the whole model, with the dtypes and shapes that it infers; a fault here is ours, not the user's."""
        try:
            _check(graph, self._declares_what_is_inferred)
        except CHECK_FAULTS as fault:
            raise SzilardError(f"A pass left an invalid ONNX graph ({fault}); please report it with the model.") from fault

    def float_dtypes(self, graph: ir.Model) -> set[str]:
        """The float dtypes of its weights."""
        return float_dtypes(graph)

    def node_count(self, graph: ir.Model) -> int:
        return sum(1 for _ in graph.graph.all_nodes())

    def runner(self, graph: ir.Model) -> AbstractContextManager[Runner]:
        return onnx_runner(graph)

    def probe(self, graph: ir.Model, read: Sequence[str], disturbed: Sequence[str]) -> AbstractContextManager[Probe]:
        return onnx_probe(graph, read, disturbed)

    def extract(self, graph: ir.Model, net: Net, ops: Collection[str]) -> ir.Model:
        return extract(graph, net, ops)

    def footprint(self, group: Group, net: Net, device: Device) -> tuple[str, ...]:
        """The ops that a rewrite of the group may take away: its own, the transposes around attention, and the clip behind a
        convolution or an add."""
        around = [op for site in group.sites if isinstance(site, AttentionSite) for op in layout_ops(site, net)]
        around += [site.activation for site in group.sites if isinstance(site, CodedSite) and site.activation]
        return tuple(dict.fromkeys((*group.ops, *around)))

    def passes(self, prepared: Mapping[str, Any]) -> tuple[tuple[frozenset[str], Pass], ...]:
        """In the order in which they run: exact ones first, so that what follows is measured against them."""
        return (
            (frozenset({"fold_batch_norm"}), FoldBatchNorm()),
            (frozenset({"fused_attention", "keyed_attention"}), FuseAttention()),
            (frozenset({"skip_layer_norm", "sum_layer_norm"}), RewriteResidualNorm()),
            (frozenset({"merged"}), MergeLinear()),
            (frozenset({"spectral_sparse"}), SparsifyAttention(prepared=prepared)),
            (frozenset(SHARES), LowRankLinears(prepared=prepared)),
            (FORMAT_ACTIONS, QuantizeLinears(prepared=prepared, style=self.style)),
            # Behind the formats: it widens the weights that they made.
            (frozenset({"keyed_attention"}), MaskInKeys()),
            (frozenset(BITS), QuantizeEmbeddings(prepared=prepared, style=self.style)),
            (ON_CODES, QuantizeConvs(prepared=prepared, style=self.style)),
        )

    def actions(self, group: Group, net: Net, device: Device) -> dict[str, str]:
        """Action -> the sentence that refuses it here ("" if it may be taken)."""
        offered = self._offered(group, net, device)
        return standard_refusals(offered, net.opset, self._stays) if self.style is OnnxStyle.qdq else offered

    def _offered(self, group: Group, net: Net, device: Device) -> dict[str, str]:
        site, on_cuda = group.sites[0], device.kind == "cuda"
        only = only_checked if on_cuda else _only_float32
        if isinstance(site, LinearSite):
            formats = cuda_formats(site) if on_cuda else _integer_formats(site, net)
            formats.update(structure_actions(group, self.runtime, device))
            if len(group.sites) == 1:
                return formats
            mergeable = [name for name in (*INTEGER_INPUTS, *HALF_FORMATS) if name in formats]
            return {**formats, "merged": "", **{f"{name}_merged": formats[name] for name in mergeable}}
        if isinstance(site, AttentionSite):
            sparse = only(site.dtype, "sparse attention") or sparse_refusal(site, longest_length(net), device)
            operator = {"fused_attention": attention_refusal(site, net), "keyed_attention": keyed_refusal(site, net)}
            return {**operator, "spectral_sparse": sparse}
        if isinstance(site, ConvSite):
            return {**({"fold_batch_norm": ""} if site.batch_norm else {}), INT8_CONV: _conv_refusal(site, net, device)}
        if isinstance(site, ElementwiseSite):
            no_kernel = (
                f"onnxruntime's CUDA provider has no {site.function} of codes, it would copy to the host" if on_cuda else ""
            )
            return {
                ELEMENTWISE[site.function]: no_kernel or _only_float32(site.dtype, "QuantizeLinear") or _too_old(INT8_CONV, net)
            }
        if isinstance(site, EmbeddingSite):
            halves = "" if site.dtype == "float16" else only(site.dtype, "GatherBlockQuantized")
            return {action: halves or table_refusal(action, site.width) for action in BITS}
        fused = "" if site.dtype == "float16" else only(site.dtype, "SkipLayerNormalization")
        return {"skip_layer_norm": fused, "sum_layer_norm": ""}

    def print_step(self, graph: ir.Model) -> str:
        return print_onnx(graph)


def _check(graph: ir.Model, full: bool) -> None:
    """onnx.checker on the whole model, one that is too large for protocol buffers by way of a file; raises one of `CHECK_FAULTS`."""
    if weight_bytes(graph) <= LARGEST_INLINE_BYTES:
        # As in memory: a proto has no folder that external data could be relative to.
        onnx.checker.check_model(ir.to_proto(ir.external_data.load_to_model(graph)), full_check=full)
        return
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:
        save_model(graph, Path(scratch) / "model.onnx")
        onnx.checker.check_model(Path(scratch) / "model.onnx", full_check=full)


def _integer_formats(site: LinearSite, net: Net) -> dict[str, str]:
    """Format -> why a linear layer cannot have it on the CPU provider, "" if it can."""
    floats = _only_float32(site.dtype, "the integer kernels")
    return {name: floats or _too_old(name, net) for name in FORMATS}


def _too_old(action: str, net: Net) -> str:
    needed = QUANTIZE_OPSETS.get(action, 0)
    if net.opset >= needed:
        return ""
    return f"its input goes into codes by an operator of opset {needed}, and the model is in opset {net.opset}; convert it to a newer one"


def _conv_refusal(site: ConvSite, net: Net, device: Device) -> str:
    """Why a convolution cannot run on codes, "" if it can."""
    found = net.ops[site.ops[0]].attributes if site.ops[0] in net.ops else {}
    if found.get("transposed") or found.get("activation"):
        return "onnxruntime has no integer kernel for a transposed convolution, or for one with an activation inside"
    if device.kind == "cuda":
        return "onnxruntime's CUDA provider has no int8 convolution, it would copy to the host"
    return _only_float32(site.dtype, "QLinearConv") or _too_old(INT8_CONV, net)


def _only_float32(dtype: str, kernel: str) -> str:
    if dtype == "float32":
        return ""
    reads = "read" if kernel.endswith("s") else "reads"
    return f"its dtype is {dtype}, and {kernel} of onnxruntime's CPU provider {reads} float32"
