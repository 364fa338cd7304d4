"""The two kernels of the project as cases, each beside what it replaces: int8 weights in Triton, and spectral sparse attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import torch
from torch import nn

from ..cost_model.module_op import MODULE_OP, ModuleOp
from ..cost_model.net import Net
from ..cost_model.view_fx import view_fx
from ..kernels.linear_parts.tuning import most_rows
from ..kernels.quantized_linear.torch_cuda import Int8ColumnLinear
from ..kernels.spectral_attention.tiling import DENSITY, TILE, budget_for, leaves_for
from ..kernels.spectral_attention.torch_module import SpectralAttention
from ..rewriter.energy_case import EnergyCase
from .gpu_models import Feed, Traced

WIDTH = 4096
COPIES = 8
HEADS, DEPTH = 12, 64

Way = tuple[Callable[[], Net], Callable[[str], Callable[[], object]], str]


def kernel_cases() -> Iterator[EnergyCase]:
    """Linear layers [rows, 4096] x [4096, 4096] in bfloat16, with and without int8 weights; attention in float32, dense and sparse."""
    for rows, repeats in ((1, 64), (64, 32), (1024, 8)):
        dense = Traced(partial(nn.Linear, WIDTH, WIDTH), _rows(rows), torch.bfloat16)
        before: Way = dense.view, partial(in_turn, dense.build), "bfloat16"
        after: Way = partial(quantised_net, rows), partial(in_turn, partial(_quantised, rows)), "int8 weights"
        yield from _pair("quantized_linear", f"linear {rows}", before, after, repeats)
    for length, repeats in ((512, 8), (1024, 4), (4096, 1)):
        whole = Traced(DenseAttention, _heads(length), torch.float32)
        parts = Traced(partial(spectral, length), _heads(length), torch.float32, decompose=True)
        before, after = (whole.view, whole.build, "dense"), (parts.view, parts.build, "spectral")
        yield from _pair("spectral_attention", f"attention {length}", before, after, repeats)


def in_turn(build: Callable[[str], Callable[[], object]], device: str) -> Callable[[], object]:
    """As many copies of one layer as no cache holds, called in turn: a model reads all its other weights before it reads these again."""
    following = cycle([build(device) for _ in range(COPIES)])
    return lambda: next(following)()


def _pair(family: str, name: str, before: Way, after: Way, repeats: int = 1) -> Iterator[EnergyCase]:
    first = f"{name} {before[2]}"
    yield EnergyCase(first, family, "op", before[0], before[1], repeats, group=name)
    yield EnergyCase(f"{name} {after[2]}", family, "op", after[0], after[1], repeats, rewritten_from=first, group=name)


def quantised_net(rows: int, width: int = WIDTH) -> Net:
    """x [rows, width] times int8 weights [width, width], as the pass that puts the module into a graph describes it."""
    with torch.device("meta"):
        module, x = Int8ColumnLinear(width, width), torch.empty(rows, width, dtype=torch.bfloat16)
    graph = torch.fx.Graph()
    source = graph.placeholder("x")
    root = nn.Module()
    root.add_module("linear", module)
    call = graph.create_node("call_module", "linear", (source,))
    source.meta["val"], call.meta["val"] = x, torch.empty_like(x)
    call.meta[MODULE_OP] = ModuleOp("matmul_nbits", {"bits": 8, "row_tile": most_rows()})
    graph.output(call)
    return view_fx(torch.fx.GraphModule(root, graph), {})


def _quantised(rows: int, device: str) -> Callable[[], object]:
    module = Int8ColumnLinear(WIDTH, WIDTH).to(device)
    module.weight.random_(-127, 128)
    module.weight_scale.uniform_(0.5, 2.0)
    x = torch.randn(rows, WIDTH, device=device, dtype=torch.bfloat16)
    return lambda: module(x)


class DenseAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v of query, key and value [B, H, N, D]."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value)


def spectral(length: int, heads: int = HEADS, depth: int = DEPTH) -> SpectralAttention:
    """The sparse form for `length` keys, with random codebooks."""
    leaves = leaves_for(length, TILE)
    module = SpectralAttention(heads, (leaves, leaves), depth, TILE, budget_for(length, TILE, DENSITY), depth**-0.5)
    module.query_codebook.normal_()
    module.key_codebook.normal_()
    return module


def _rows(rows: int) -> Feed:
    return lambda device, dtype: {"input": torch.randn(rows, WIDTH, device=device, dtype=dtype)}


def _heads(length: int) -> Feed:
    def feed(device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        names = ("query", "key", "value")
        return {name: torch.randn(1, HEADS, length, DEPTH, device=device, dtype=dtype) for name in names}

    return feed
