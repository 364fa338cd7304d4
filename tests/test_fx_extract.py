"""Ops cut out of a graph compute what they compute inside it, under the same names, and take the same passes."""

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.passes.fx_attention import FxAttention
from szilard.passes.fx_extract import extract
from szilard.passes.fx_merge_linear import FxMergeLinear

from .fx_graphs import choice, cleaned, distance, groups, net_of, sites_of, targets, traced


class Block(nn.Module):
    """Attention with free batch and length, in the spelling that the walk finds, and a split with three outputs."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        q, k, v = (each(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for each in (self.query, self.key, self.value))
        scores = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1) @ v
        out = self.norm(scores.transpose(1, 2).reshape(x.shape))
        a, b = out.split([3, 5], -1)
        return a * 2, b + 1


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return traced(Block(), torch.randn(3, 6, 8), dynamic={"x": {0: "batch", 1: "sequence"}})


class Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps every value by name."""

    def run_node(self, n):
        self.kept = getattr(self, "kept", {})
        self.kept[n.name] = super().run_node(n)
        return self.kept[n.name]


def values_of(graph, program):
    recorder = Recorder(graph)
    with torch.inference_mode():
        recorder.run(*(torch.from_numpy(np.array(program.sample[name])) for name in program.inputs))
    return recorder.kept


def check(graph, program, micro):
    """The cut-out module gives the values that the whole graph gives under the names of its outputs."""
    kept = values_of(graph, program)
    feeds = [kept[node.name] for node in micro.graph.nodes if node.op == "placeholder"]
    wanted = [kept[node.name] for node in next(iter(reversed(micro.graph.nodes))).args[0]]
    with torch.inference_mode():
        assert distance(list(micro(*feeds)), wanted) < 1e-6
    return feeds


def test_each_op_alone_computes_what_it_computes_inside(program):
    graph = cleaned(program)
    net = net_of(graph, program)
    alone = 0
    for op in net.ops.values():
        if op.kind == "sym" or op.target == "operator.getitem" or "getitem" in op.id or "sym" in op.target:
            continue
        value = next(node for node in graph.graph.nodes if node.name == op.id).meta["val"]
        if isinstance(value, torch.SymInt):
            continue
        micro = extract(graph, net, [op.id])
        check(graph, program, micro)
        assert any(node.name == op.id for node in micro.graph.nodes)
        alone += 1
    assert alone > 15


def test_sites_apply_to_what_was_cut_out(program):
    graph = cleaned(program)
    net = net_of(graph, program)
    sites = sites_of(graph, program, "attention")
    ops = [op for site in sites.values() for op in site.ops]
    micro = extract(graph, net, ops)
    check(graph, program, micro)
    assert FxAttention().apply(micro, [choice("fused_attention", sites)], sites) == 1
    check(graph, program, micro)
    linears = sites_of(graph, program, "linear")
    micro = extract(graph, net, [op for site in linears.values() for op in site.ops])
    feeds = check(graph, program, micro)
    assert len(feeds) == 1
    assert FxMergeLinear().apply(micro, groups(linears, "merged"), linears) == 3
    check(graph, program, micro)


def test_sizes_become_numbers_and_weights_are_shared_not_copied(program):
    graph = cleaned(program)
    net = net_of(graph, program)
    micro = extract(graph, net, list(net.ops))
    assert not any("sym" in str(target) for target in targets(micro))
    assert all(isinstance(size, int) for node in micro.graph.nodes for size in getattr(node.meta.get("val"), "shape", ()))
    check(graph, program, micro)
    pointers = {parameter.data_ptr() for parameter in graph.parameters()}
    assert {parameter.data_ptr() for parameter in micro.parameters()} <= pointers
    before = set(dict(graph.named_parameters()))
    FxMergeLinear().apply(micro, groups(sites_of(graph, program, "linear"), "merged"), sites_of(graph, program, "linear"))
    assert set(dict(graph.named_parameters())) == before


def test_unknown_ops_and_ops_without_tensors_are_refused(program):
    graph = cleaned(program)
    net = net_of(graph, program)
    with pytest.raises(InputError, match="'nowhere'"):
        extract(graph, net, ["nowhere"])
    with pytest.raises(InputError, match="no tensor"):
        extract(graph, net, [])
