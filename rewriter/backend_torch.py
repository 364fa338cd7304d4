"""The PyTorch backend: which rewrites it has, and how its graphs are viewed, run, probed, cut and printed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule

from ..cost_model.cpu_features import multiplies_bfloat16
from ..cost_model.device import Device
from ..cost_model.errors import SzilardError
from ..cost_model.net import Net
from ..cost_model.program import Program
from ..cost_model.sites import AttentionSite, ConvSite, EmbeddingSite, LinearSite, Region
from ..cost_model.view_fx import view_fx
from ..kernels.low_rank.factors import SHARES
from ..kernels.quantized_embedding.formats import BITS
from ..kernels.quantized_embedding.formats import refusal as table_refusal
from ..kernels.quantized_linear.formats import FORMATS, INTEGER_INPUTS, TRITON_FORMATS
from ..kernels.spectral_attention.crossover import longest_length
from ..kernels.spectral_attention.crossover import refusal as sparse_refusal
from ..passes.chosen import MERGED
from ..passes.fx_attention import FxAttention
from ..passes.fx_attention import refusal as attention_refusal
from ..passes.fx_batch_norm import FxBatchNorm
from ..passes.fx_clean_up import FxCleanUp
from ..passes.fx_extract import extract
from ..passes.fx_half_linear import DTYPES as HALVES
from ..passes.fx_half_linear import FxHalfLinear
from ..passes.fx_low_rank import FxLowRank
from ..passes.fx_merge_linear import FxMergeLinear
from ..passes.fx_quantize_embedding import FxQuantizeEmbedding
from ..passes.fx_quantize_linear import FxQuantizeLinear
from ..passes.fx_sparse_attention import FxSparseAttention
from ..passes.fx_unfold_heads import unfold_heads
from .backend import FORMAT_ACTIONS, Group, Pass, Probe, Runner
from .print_fx import print_fx
from .print_names import identifier
from .runtime_torch import TorchProbe, torch_runner
from .structure_options import structure_actions

CUT_OUT = "cut_out"
IN_16_BITS = frozenset(f"{name}{suffix}" for name in HALVES for suffix in ("", MERGED))
TRITON_DTYPES = ("float32", "float16", "bfloat16")
NO_BFLOAT16 = "this processor has no instructions for products in bfloat16"
NO_KERNEL_ON_CUDA = "torch has no CUDA kernel for it here: Triton's kernels have formats of their own"


class TorchBackend:
    """PyTorch over torch.fx graphs. `program` names the inputs and outputs of the whole graph; see `backend.Backend`."""

    runtime = "torch"
    style = ""

    def __init__(self, program: Program) -> None:
        self._program = program

    def view(self, graph: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> Net:
        # Inputs may have names that are none in Python, as caches do ("past_key_values.0.key").
        return view_fx(graph, {identifier(name): shape for name, shape in shapes.items()})

    def clone(self, graph: GraphModule) -> GraphModule:
        """A copy of the graph; weights are shared, since no pass writes into one."""
        cloned = GraphModule(graph, copy.deepcopy(graph.graph))
        cloned.meta.update(graph.meta)
        return cloned

    def clean_up(self, graph: GraphModule) -> int:
        changed = FxCleanUp().apply(graph, (), {})
        return changed + unfold_heads(
            graph, self.view(graph, {name: each.shape for name, each in self._program.sample.items()})
        )

    def lint(self, graph: GraphModule) -> None:
        """torch.fx's own check, and that every value is known by its shape and dtype: views and prices are made from them."""
        graph.graph.lint()
        for node in graph.graph.nodes:
            if node.op != "output" and "val" not in node.meta:
                raise SzilardError(
                    f"A pass left node {node.name} ({node.target}) without a shape; please report it with the model."
                )

    def float_dtypes(self, graph: GraphModule) -> set[str]:
        """The float dtypes of its weights."""
        tensors = (*graph.parameters(), *graph.buffers())
        return {str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()}

    def node_count(self, graph: GraphModule) -> int:
        return len(graph.graph.nodes)

    @contextmanager
    def runner(self, graph: GraphModule) -> Iterator[Runner]:
        inputs, outputs = self._program.inputs, self._program.outputs
        if graph.meta.get(CUT_OUT):
            inputs = tuple(node.name for node in graph.graph.nodes if node.op == "placeholder")
            results = next(node for node in graph.graph.nodes if node.op == "output").args[0]
            outputs = tuple(str(position) for position in range(len(results)))
        yield torch_runner(graph, inputs, outputs)

    @contextmanager
    def probe(self, graph: GraphModule, read: Sequence[str], disturbed: Sequence[str]) -> Iterator[Probe]:
        yield TorchProbe(graph, self._program.inputs, self._program.outputs)

    def extract(self, graph: GraphModule, net: Net, ops: Collection[str]) -> GraphModule:
        micro = extract(graph, net, ops)
        micro.meta[CUT_OUT] = True
        return micro

    def footprint(self, group: Group, net: Net, device: Device) -> tuple[str, ...]:
        """The ops that a rewrite of the group may take away: its own, and on CUDA what the epilogue of a linear takes in. The add before a
        norm may be such a residual, and torch has no rewrite of the two; it is never part of theirs there."""
        if device.kind != "cuda":
            return group.ops
        if isinstance(group.sites[0], Region):
            return tuple(op for op in group.ops if net.ops[op].kind != "add")
        behind = [op for site in group.linears for op in (*site.activation, site.residual) if op]
        return tuple(dict.fromkeys((*group.ops, *behind)))

    def passes(self, prepared: Mapping[str, Any]) -> tuple[tuple[frozenset[str], Pass], ...]:
        """In the order in which they run: exact ones first, so that what follows is measured against them."""
        return (
            (frozenset({"fold_batch_norm"}), FxBatchNorm()),
            (frozenset({"fused_attention"}), FxAttention()),
            (frozenset({"merged"}), FxMergeLinear()),
            (frozenset({"spectral_sparse"}), FxSparseAttention(prepared=prepared)),
            (frozenset(SHARES), FxLowRank(prepared=prepared)),
            (IN_16_BITS, FxHalfLinear(prepared=prepared)),
            (FORMAT_ACTIONS - IN_16_BITS, FxQuantizeLinear(prepared=prepared)),
            (frozenset(BITS), FxQuantizeEmbedding(prepared=prepared)),
        )

    def actions(self, group: Group, net: Net, device: Device) -> dict[str, str]:
        """Action -> the sentence that refuses it here ("" if it may be taken)."""
        site = group.sites[0]
        if isinstance(site, LinearSite):
            formats = dict.fromkeys(FORMATS, "" if device.kind == "cpu" else NO_KERNEL_ON_CUDA)
            formats["bfloat16"] = (
                NO_BFLOAT16 if device.kind == "cpu" and not multiplies_bfloat16() else _half_refusal(site, "bfloat16")
            )
            if device.kind == "cuda":
                triton = (
                    "" if site.dtype in TRITON_DTYPES else f"its dtype is {site.dtype}, and Triton's kernels take none such"
                )
                formats.update(dict.fromkeys(TRITON_FORMATS, triton))
                # Not on CPUs: without instructions for its products, which few have, they are no faster than those of float32.
                formats["float16"] = _half_refusal(site, "float16")
                if "rate.float8.tensor" not in device.values:
                    formats["fp8_token"] = triton or f"{device.name} does not multiply fp8"
            formats.update(structure_actions(group, self.runtime, device))
            if len(group.sites) == 1:
                return formats
            mergeable = [name for name in (*INTEGER_INPUTS, *HALVES, *TRITON_FORMATS) if name in formats]
            return {**formats, "merged": "", **{f"{name}{MERGED}": formats[name] for name in mergeable}}
        if isinstance(site, AttentionSite):
            sparse = {"spectral_sparse": sparse_refusal(site, longest_length(net), device)}
            return sparse if site.form == "operator" else {"fused_attention": attention_refusal(site, net), **sparse}
        if isinstance(site, EmbeddingSite):
            return {action: table_refusal(action, site.width) for action in BITS}
        if isinstance(site, ConvSite):
            return {"fold_batch_norm": ""} if site.batch_norm else {}
        return {}

    def print_step(self, graph: GraphModule) -> str:
        return print_fx(graph, self._program.dynamic)


def _half_refusal(site: LinearSite, dtype: str) -> str:
    """Why a linear cannot be put into a dtype of 16 bits, "" if it can."""
    return "" if site.dtype == "float32" else f"its dtype is {site.dtype}, and {dtype} is for float32 alone"
