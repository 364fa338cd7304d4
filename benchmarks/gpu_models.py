"""The whole models of the validation as cases: each in float32 and in a half precision that rewrites it, at several batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from ..cost_model.net import Net
from ..cost_model.view_fx import view_fx
from ..rewriter.energy_case import EnergyCase
from ..rewriter.trace_torch import KEPT_WHOLE
from .gpu_networks import SMOLLM2, ConvNet, Decoder, Encoder, Inputs, VisionTransformer, caches, pixels, tokens

CONTEXT = 1024
Make = Callable[[], nn.Module]
Feed = Callable[[str, torch.dtype], Inputs]


def model_cases() -> Iterator[EnergyCase]:
    """MiniLM, SmolLM2 (prefill and decode), ViT-B/16 and a network like ResNet-50. Each half precision is a rewrite of float32."""
    for batch, length in ((1, 128), (8, 128), (32, 256)):
        yield from pair("bert", f"minilm {batch}x{length}", Encoder, _words(batch, length), torch.bfloat16)
    for batch, length in ((1, 512), (2, 512)):
        yield from pair("llama", f"smollm2 prefill {batch}x{length}", Decoder, _words(batch, length), torch.bfloat16)
    for batch in (1, 16):
        yield from pair("llama", f"smollm2 decode {batch}@{CONTEXT}", Decoder, _step(batch), torch.bfloat16)
    for batch in (1, 8):
        yield from pair("vit", f"vit-b {batch}", VisionTransformer, _images(batch), torch.float16)
    for batch in (1, 16):
        yield from pair("convnet", f"resnet {batch}", ConvNet, _images(batch), torch.float16)


def pair(family: str, name: str, make: Make, feed: Feed, half: torch.dtype) -> Iterator[EnergyCase]:
    """One model in float32 and in `half`, measured in turn in one session."""
    before = f"{name} float32"
    for dtype in (torch.float32, half):
        config, traced = f"{name} {str(dtype).removeprefix('torch.')}", Traced(make, feed, dtype)
        yield EnergyCase(
            config,
            family,
            "model",
            traced.view,
            traced.build,
            rewritten_from="" if config == before else before,
            group=name,
        )


class Traced:
    """A module in `dtype` on the inputs that `feed` gives, as the graph of operators that is both priced and run: what a library decides
    by looking at its inputs (as masks do) is decided once. With `decompose` operators are brought to core ones, as `szilard estimate` does
    for every model: slower to trace, and needed only where an operator is not known whole."""

    def __init__(self, make: Make, feed: Feed, dtype: torch.dtype, decompose: bool = False) -> None:
        self.make, self.feed, self.dtype, self.decompose = make, feed, dtype, decompose
        self._net: Net | None = None

    def view(self) -> Net:
        """The net of one call; it is traced on tensors without data where it was not built yet."""
        if self._net is None:
            self._trace("meta")
        assert self._net is not None
        return self._net

    def build(self, device: str) -> Callable[[], object]:
        """One call on `device`, with random weights and inputs."""
        torch.manual_seed(0)
        graph, inputs = self._trace(device)
        return lambda: graph(**inputs)

    def _trace(self, device: str) -> tuple[nn.Module, Inputs]:
        with torch.device(device), torch.no_grad():
            module, inputs = self.make().to(self.dtype).eval(), self.feed(device, self.dtype)
            exported = torch.export.export(module, (), dict(inputs), strict=False)
            if self.decompose:
                table = torch.export.default_decompositions()
                for operator in KEPT_WHOLE:
                    table.pop(operator, None)
                exported = exported.run_decompositions(table)
            graph = exported.module(check_guards=False)
        self._net = view_fx(graph, {})
        return graph, inputs


def _words(batch: int, length: int) -> Feed:
    return lambda device, dtype: {"input_ids": tokens(batch, length, device)}


def _images(batch: int) -> Feed:
    return lambda device, dtype: {"pixels": pixels(batch, 224, device, dtype)}


def _step(batch: int) -> Feed:
    layers = int(SMOLLM2["num_hidden_layers"])
    return lambda device, dtype: {
        "input_ids": tokens(batch, 1, device),
        **caches(layers, batch, CONTEXT, device, dtype),
    }
