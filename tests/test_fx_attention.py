"""Hand-written attention becomes torch's operator with the same outputs, in every spelling of scale, heads and mask
(`fx_attention_mask.py`)."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.passes.fx_attention import FxAttention, refusal

from .fx_graphs import aten, choice, cleaned, distance, net_of, run, sites_of, targets, traced, traced_family, without_values

BATCH, HEADS, LENGTH, KEYS, WIDTH = 2, 3, 7, 5, 8
ATTENTION = aten.scaled_dot_product_attention.default


class Spelled(nn.Module):
    """softmax(q k^T) v with its scale, mask and repeated heads written out; `mask` names the spelling."""

    def __init__(self, mask="none", kv_heads=HEADS, scale="after", length=KEYS):
        super().__init__()
        self.mask, self.scale, self.repeats = mask, scale, HEADS // kv_heads
        self.register_buffer("causal", torch.ones(1, 1, LENGTH, length).tril() == 0)
        self.register_buffer("bias", torch.randn(HEADS, LENGTH, length, generator=torch.Generator().manual_seed(1)))

    def forward(self, q, k, v, keep):
        k, v = (t.repeat_interleave(self.repeats, dim=1) if self.repeats > 1 else t for t in (k, v))
        factor = 0.83
        scores = (q * factor) @ k.transpose(-1, -2) if self.scale == "before" else q @ k.transpose(-1, -2) * factor
        if self.mask == "additive":
            scores = scores + self.bias
        elif self.mask == "padding":
            scores = scores + torch.where(keep, 0.0, torch.finfo(scores.dtype).min)[:, None, None, :]
        elif self.mask == "boolean":
            scores = scores.masked_fill(~keep[:, None, None, :], -math.inf)
        elif self.mask == "finite":
            scores = scores.masked_fill(~keep[:, None, None, :], torch.finfo(scores.dtype).min)
        elif self.mask == "small":
            scores = torch.where(keep[:, None, None, :], scores, -1e4)
        elif self.mask == "causal":
            scores = scores.masked_fill(self.causal, -math.inf)
        elif self.mask == "several":
            scores = (scores + self.bias) / 2 - torch.where(keep, 0.0, 1e9)[:, None, None, :]
            scores = scores.masked_fill(self.causal, torch.finfo(scores.dtype).min)
        elif self.mask == "folded":
            folded = self.bias[None, :, :1].expand(len(q), -1, -1, -1).reshape(-1, 1, k.shape[2])
            scores = torch.baddbmm(folded, q.flatten(0, 1), k.flatten(0, 1).mT, beta=0.5).view(scores.shape)
        return torch.softmax(scores, -1) @ v


def inputs(kv_heads=HEADS, keys=KEYS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(BATCH, HEADS, LENGTH, WIDTH, generator=generator)
    k, v = (torch.randn(BATCH, kv_heads, keys, WIDTH, generator=generator) for _ in "kv")
    keep = torch.rand(BATCH, keys, generator=generator) > 0.4
    keep[:, 0] = True
    return q, k, v, keep


def fused(program):
    """(graph after the pass, sites, number replaced)."""
    graph = cleaned(program)
    sites = sites_of(graph, program, "attention")
    assert [refusal(site, net_of(graph, program)) for site in sites.values()] == [""] * len(sites)
    return graph, sites, FxAttention().apply(graph, [choice("fused_attention", sites)], sites)


@pytest.mark.parametrize("scale", ["before", "after"])
@pytest.mark.parametrize("mask", ["none", "additive", "padding", "boolean", "finite", "small", "causal", "several", "folded"])
def test_every_spelling_becomes_one_operator(mask, scale):
    program = traced(Spelled(mask, scale=scale), *inputs())
    graph, sites, changed = fused(program)
    assert changed == 1
    assert targets(graph).count(ATTENTION) == 1
    assert not {aten._softmax.default, aten.bmm.default} & set(targets(graph))
    other = dict(zip(program.inputs, (tensor.numpy() for tensor in inputs(seed=3)), strict=True))
    assert distance(run(graph, program, **other), run(program.graph, program, **other)) < 1e-6
    assert without_values(graph) == []
    assert FxAttention().apply(graph, [choice("fused_attention", sites)], sites) == 0


class Beside(nn.Module):
    """Attention with a sink, one more logit for each head, or for each query, before or behind the scores."""

    def __init__(self, mask, first, per_query):
        super().__init__()
        self.mask, self.first, self.per_query = mask, first, per_query
        self.register_buffer("sinks", torch.tensor([2.0, -1.0, 0.5]))

    def forward(self, q, k, v, keep):
        scores = q @ k.mT * 0.83
        if self.mask == "padding":
            scores = scores + torch.where(keep, 0.0, torch.finfo(scores.dtype).min)[:, None, None, :]
        elif self.mask:
            scores = scores.masked_fill(~keep[:, None, None, :], -math.inf if self.mask == "boolean" else -1e9)
        sinks = self.sinks.view(1, HEADS, 1, 1).expand(len(q), -1, q.shape[2], -1)
        sinks = sinks * q[..., :1] if self.per_query else sinks
        beside = torch.cat([sinks, scores] if self.first else [scores, sinks], -1)
        weights = torch.softmax(beside - beside.max(-1, keepdim=True).values, -1)
        return (weights[..., 1:] if self.first else weights[..., :-1]) @ v


@pytest.mark.parametrize(
    ("mask", "first", "per_query"),
    [("", False, False), ("padding", True, True), ("boolean", False, True), ("finite", True, False)],
)
def test_a_sink_becomes_one_more_key(mask, first, per_query):
    program = traced(Beside(mask, first, per_query), *inputs())
    graph, sites, changed = fused(program)
    assert (changed, targets(graph).count(ATTENTION)) == (1, 1)
    assert next(iter(sites.values())).sink
    assert not {aten._softmax.default, aten.bmm.default} & set(targets(graph))
    other = dict(zip(program.inputs, (tensor.numpy() for tensor in inputs(seed=3)), strict=True))
    other["keep"][0] = False
    assert distance(run(graph, program, **other), run(program.graph, program, **other)) < 1e-6
    assert without_values(graph) == []


@pytest.mark.parametrize("mask", ["padding", "finite", "small"])
def test_a_row_that_is_masked_everywhere_stays_the_mean(mask):
    program = traced(Spelled(mask), *inputs())
    graph, _, _ = fused(program)
    keep = np.zeros((BATCH, KEYS), bool)
    assert distance(run(graph, program, keep=keep), run(program.graph, program, keep=keep)) < 1e-6


def test_repeated_key_heads_are_read_once():
    program = traced(Spelled(kv_heads=1), *inputs(kv_heads=1))
    graph, sites, changed = fused(program)
    assert changed == 1
    node = next(node for node in graph.graph.nodes if node.target is ATTENTION)
    if next(iter(sites.values())).kv_heads == 1:
        assert node.kwargs["enable_gqa"] is True
        assert node.args[1].name == program.inputs[1]
    assert distance(run(graph, program), run(program.graph, program)) < 1e-6


def test_only_chosen_sites_change_and_unknown_ones_are_named():
    program = traced(Spelled(), *inputs())
    graph = cleaned(program)
    sites = sites_of(graph, program, "attention")
    assert FxAttention().apply(graph, [choice("leave", sites)], sites) == 0
    with pytest.raises(InputError, match="'nowhere'"):
        FxAttention().apply(graph, [choice("fused_attention", {"nowhere": None})], sites)


def test_refusals_say_why():
    from dataclasses import replace

    program = traced(Spelled(), *inputs())
    graph = cleaned(program)
    site, net = next(iter(sites_of(graph, program, "attention").values())), net_of(graph, program)
    assert "already" in refusal(replace(site, form="operator"), net)
    assert "already" in refusal(replace(site, form="packed"), net)
    assert "capped by 50" in refusal(replace(site, softcap=50.0), net)
    assert "align" in refusal(replace(site, causal=True), net)
    assert "takes one" in refusal(replace(site, causal=True, mask="m", key_length=LENGTH), net)
    assert "no multiple" in refusal(replace(site, kv_heads=2), net)
    assert "not [batch, heads" in refusal(replace(site, query="nowhere"), net)


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit", "whisper"])
def test_eager_transformers_with_free_sizes(family):
    program = traced_family(family, "eager")
    graph, sites, changed = fused(program)
    assert changed == len(sites) == (6 if family == "whisper" else 2)
    assert distance(run(graph, program), run(program.graph, program)) < 1e-5
    if program.dynamic.get("input_ids"):
        other = {name: np.ones((3, 11), np.int64) for name in program.inputs}
        assert distance(run(graph, program, **other), run(program.graph, program, **other)) < 1e-5
