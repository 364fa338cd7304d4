"""Causal attention of one layer in several forms, each timed on the same operands: dense by torch and by onnxruntime, spectral by both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import helper
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.spectral_attention.causal_onnx import causal_nodes
from ..kernels.spectral_attention.causal_prepare import CausalPrepared, Operands
from ..kernels.spectral_attention.causal_torch_module import build
from ..kernels.spectral_attention.onnx_body import OPSET
from .interleaved import open_session

TORCH, GROUPED, FUSED = "torch SDPA", "onnxruntime GroupQueryAttention", "onnxruntime MultiHeadAttention"
MODULE, BODY = "szilard torch", "szilard ONNX"
DENSE, SPECTRAL = (TORCH, GROUPED, FUSED), (MODULE, BODY)
WARM = 1
"""Calls before the first that counts."""


def write_body(path: Path, prepared: CausalPrepared, kv_heads: int, width: int) -> None:
    """The operator as a file of standard ONNX operators: q [B, H, N, D], k and v [B, Hkv, N, D] -> y [B, H, N, D]."""
    heads = {"q": len(prepared.budgets), "k": kv_heads, "v": kv_heads}
    query, key, value = inputs = [
        ir.Value(name=name, shape=ir.Shape(["B", count, "N", width]), type=ir.TensorType(ir.DataType.FLOAT))
        for name, count in heads.items()
    ]
    body = causal_nodes(query, key, value, prepared, kv_heads, "causal")
    body.output.shape = ir.Shape(["B", heads["q"], "N", width])
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": OPSET}, name="g"
    )
    ir.save(ir.Model(graph, ir_version=8), path)


def write_grouped(path: Path, heads: int, kv_heads: int, width: int, scale: float) -> None:
    """onnxruntime's own causal attention with shared key heads: q [B, N, H * D], k and v [B, N, Hkv * D], `last` int32 [B] and `total`
    int32 [] for the length -> y [B, N, H * D]."""
    node = helper.make_node(
        "GroupQueryAttention", ["q", "k", "v", "", "", "last", "total"], ["y", "keys", "values"], domain="com.microsoft",
        num_heads=heads, kv_num_heads=kv_heads, scale=scale,
    )  # fmt: skip
    counts = {"q": heads, "k": kv_heads, "v": kv_heads, "y": heads}
    flat = {name: _float(name, ["B", "N", count * width]) for name, count in counts.items()}
    cached = [_float(name, ["B", kv_heads, "M", width]) for name in ("keys", "values")]
    integers = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT32, shape) for name, shape in (("last", ["B"]), ("total", []))
    ]
    _save(path, node, [flat["q"], flat["k"], flat["v"], *integers], [flat["y"], *cached])


def write_fused(path: Path, heads: int, width: int, scale: float) -> None:
    """onnxruntime's own causal attention with as many key heads: q, k, v [B, N, H * D] -> y."""
    node = helper.make_node(
        "MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", num_heads=heads, scale=scale, unidirectional=1
    )
    *inputs, output = (_float(name, ["B", "N", heads * width]) for name in "qkvy")
    _save(path, node, inputs, [output])


def _float(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _save(path: Path, node: onnx.NodeProto, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=domains, ir_version=8), path)


class Layer:
    """One layer's operands q [1, H, N, D], k and v [1, Hkv, N, D], and what its spectral form was prepared with."""

    def __init__(self, folder: Path, operands: Operands, prepared: CausalPrepared, threads: int) -> None:
        self.folder, self.operands, self.prepared, self.threads = folder, operands, prepared, threads
        self.heads, self.kv_heads = operands[0].shape[1], operands[1].shape[1]

    @contextmanager
    def opened(self, form: str) -> Iterator[Callable[[], torch.Tensor]]:
        """A call of that form that gives [1, H, N, D]; one session is alive at a time. Operands stand in memory as the form reads them."""
        query, key, value = self.operands
        scale, width = self.prepared.scale, query.shape[3]
        torch.set_num_threads(self.threads)
        if form == TORCH:
            yield lambda: scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
            return
        if form == MODULE:
            module = build(self.prepared)
            yield lambda: module(query, key, value)
            return
        path, length = self.folder / "attention.onnx", query.shape[2]
        if form == BODY:
            write_body(path, self.prepared, self.kv_heads, width)
            feeds = {name: x.contiguous().numpy() for name, x in zip("qkv", self.operands, strict=True)}
        elif form == GROUPED:
            write_grouped(path, self.heads, self.kv_heads, width, scale)
            feeds = {name: _flat(x) for name, x in zip("qkv", self.operands, strict=True)}
            feeds |= {"last": np.array([length - 1], np.int32), "total": np.array(length, np.int32)}
        else:
            write_fused(path, self.heads, width, scale)
            repeats = self.heads // self.kv_heads
            feeds = {
                "q": _flat(query),
                "k": _flat(key.repeat_interleave(repeats, 1)),
                "v": _flat(value.repeat_interleave(repeats, 1)),
            }
        opened = [open_session(path, self.threads)]

        def call() -> torch.Tensor:
            found = torch.from_numpy(opened[0].run(None, feeds)[0])
            return found if form == BODY else found.unflatten(2, (self.heads, width)).transpose(1, 2)

        yield call
        opened.clear()


def _flat(x: torch.Tensor) -> np.ndarray:
    """[B, H, N, D] as [B, N, H * D]."""
    return np.ascontiguousarray(x.transpose(1, 2).flatten(2).numpy())


def layer_seconds(layer: Layer, forms: Sequence[str], calls: int) -> dict[str, float]:
    """Median seconds of so many calls of each form, one form after the other."""
    found = {}
    for form in forms:
        with layer.opened(form) as call:
            for _ in range(WARM):
                call()
            samples = []
            for _ in range(calls):
                start = time.perf_counter()
                call()
                samples.append(time.perf_counter() - start)
            found[form] = statistics.median(samples)
    return found
