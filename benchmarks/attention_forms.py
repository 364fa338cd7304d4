"""One attention in the forms that are timed against each other: ours in onnxruntime and in torch, the best dense ones, and naive ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import helper
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.spectral_attention.onnx_body import OPSET, attention_nodes
from ..kernels.spectral_attention.prepare import SparsePrepared
from ..kernels.spectral_attention.tiling import tiles_for
from ..kernels.spectral_attention.torch_module import build
from .interleaved import open_session

CALIBRATED = 4096
"""Length that the codebooks of these benchmarks are made for, with 64 leaves, and then run at every other."""
OURS, MODULE = "szilard", "szilard in torch"
FUSED, TORCH = "onnxruntime MultiHeadAttention", "torch SDPA"
NAIVE, NAIVE_ONNX = "naive in torch", "naive in onnxruntime"
WARM = {OURS: 2, FUSED: 1, NAIVE_ONNX: 1}
"""Calls before the first that counts: a session with many intermediates still asks the system for memory in its second call (580 ms against
450 at 16,384 keys); what runs in torch keeps nothing between calls."""
SECONDS = 0.4
Arrays = Mapping[str, np.ndarray]


def write_ours(path: Path, prepared: SparsePrepared) -> None:
    """The operator as a file of standard ONNX operators: q, k, v [B, heads, N, D] -> y."""
    heads, _, width = prepared.query_codebook.shape
    inputs = [
        ir.Value(name=name, shape=ir.Shape(["B", heads, "N", width]), type=ir.TensorType(ir.DataType.FLOAT)) for name in "qkv"
    ]
    query, key, value = inputs
    body = attention_nodes(query, key, value, prepared, "sparse")
    body.output.shape = ir.Shape(["B", heads, "N", width])
    graph = ir.Graph(
        inputs, [body.output], nodes=body.nodes, initializers=body.initializers, opset_imports={"": OPSET}, name="g"
    )
    ir.save(ir.Model(graph, ir_version=8), path)


def write_fused(path: Path, heads: int, width: int) -> None:
    """onnxruntime's own fused attention: q, k, v [B, N, heads * D] -> y; without a mask it is flash attention."""
    node = helper.make_node(
        "MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", num_heads=heads, scale=width**-0.5
    )
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", "N", heads * width]) for name in "qkvy"]
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", infos[:3], infos[3:]), opset_imports=domains, ir_version=8), path
    )


def write_naive(path: Path, heads: int, width: int) -> None:
    """Three operators and the scale: q, k, v [B, heads, N, D] -> y."""
    nodes = [
        helper.make_node("Transpose", ["k"], ["columns"], perm=(0, 1, 3, 2)),
        helper.make_node("MatMul", ["q", "columns"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", heads, "N", width]) for name in "qkvy"]
    scale = onnx.numpy_helper.from_array(np.array(width**-0.5, np.float32), "scale")
    graph = helper.make_graph(nodes, "g", infos[:3], infos[3:], initializer=[scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v as three operators."""
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1) @ value


class Case:
    """Operands q, k, v [1, heads, N, D] and the ways to compute the attention over them; files are written into `folder`."""

    def __init__(self, folder: Path, name: str, operands: Arrays, prepared: SparsePrepared, threads: int) -> None:
        self.name, self.operands, self.prepared, self.threads = name, operands, prepared, threads
        heads, self.length, self.width = operands["q"].shape[1:]
        self.files = {form: folder / f"{form} {name}.onnx" for form in (OURS, FUSED, NAIVE_ONNX)}
        write_ours(self.files[OURS], prepared)
        write_fused(self.files[FUSED], heads, self.width)
        write_naive(self.files[NAIVE_ONNX], heads, self.width)

    @contextmanager
    def opened(self, name: str) -> Iterator[Callable[[], np.ndarray]]:
        """A call of that form on the operands; no more than one is open at a time."""
        if name in (TORCH, MODULE, NAIVE):
            torch.set_num_threads(self.threads)
            query, key, value = (torch.from_numpy(self.operands[each]) for each in "qkv")
            forms: dict[str, Callable[..., torch.Tensor]] = {TORCH: scaled_dot_product_attention, NAIVE: naive}
            run = forms.get(name) or build(self.prepared)
            with torch.no_grad():
                yield lambda: run(query, key, value).numpy()
            return
        opened, feeds = [open_session(self.files[name], self.threads)], self.operands
        if name == FUSED:
            flat = {each: np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for each, x in feeds.items()}
            feeds = {each: x.reshape(*x.shape[:2], -1) for each, x in flat.items()}
        yield lambda: opened[0].run(None, dict(feeds))[0]
        opened.clear()

    def quality(self) -> dict[str, float]:
        """Exact tiles and their share of all, and relative error and mean cosine against dense attention."""
        outputs = {}
        for name in (OURS, TORCH):
            with self.opened(name) as call:
                outputs[name] = call().astype(np.float64)
        found, wanted = outputs[OURS], outputs[TORCH]
        lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
        tiles = tiles_for(self.length, self.prepared.key_tile or self.prepared.tile)
        return {
            "exact_tiles": max(self.prepared.budgets),
            "tiles": tiles,
            "density": max(self.prepared.budgets) / tiles,
            "relative_error": float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)),
            "cosine": float(np.mean((found * wanted).sum(-1) / lengths)),
        }


def median_call(call: Callable[[], object], warm: int) -> float:
    """Median seconds of up to five calls that take `SECONDS` together, after `warm` calls that are not counted."""
    for _ in range(warm):
        call()
    samples: list[float] = []
    while len(samples) < 5 and sum(samples) < SECONDS:
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def measured(cases: Sequence[Case], forms: Sequence[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Median seconds of each round: {case: {form: [rounds]}}; every round takes all cases, and the order of the forms turns by one."""
    forms = list(forms)
    found: dict[str, dict[str, list[float]]] = {case.name: {form: [] for form in forms} for case in cases}
    for turn in range(rounds):
        shift = turn % len(forms)
        for case in cases:
            for form in forms[shift:] + forms[:shift]:
                with case.opened(form) as call:
                    found[case.name][form].append(median_call(call, WARM.get(form, 0)))
    return found
