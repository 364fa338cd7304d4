"""Linears in integer formats: the numbers of the formats' own arithmetic, shared inputs merged, float weights gone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import TORCH_FORMATS, effective_weight, prepare_group
from szilard.kernels.quantized_linear.reference import simulate
from szilard.passes.fx_quantize_linear import FxQuantizeLinear

from .fx_graphs import choice, cleaned, distance, groups, net_of, run, sites_of, stored_linears, traced, without_values

WIDTH = 64


class Pair(nn.Module):
    """Two linears on one input, and a bias added behind a third that has none."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 33, bias=False)
        self.third, self.shift = nn.Linear(48, 20, bias=False), nn.Parameter(torch.randn(20))

    def forward(self, x):
        y = self.first(x)
        return self.second(x), self.third(y.relu()) + self.shift


def prepared_of(program, graph, sites, action):
    """Weights of every site in `action`, those of one group together, each with the bias that its site has."""
    found = {}
    samples = np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)
    for each in groups(sites, action):
        weights, biases = stored_linears(graph, [sites[name] for name in each.sites])
        inputs = samples[:, : weights[0].shape[0]]
        found |= dict(zip(each.sites, prepare_group(action, weights, biases, inputs), strict=True))
    return found


def quantized(action, merged=""):
    torch.manual_seed(0)
    program = traced(Pair(), torch.randn(3, 7, WIDTH))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    prepared = prepared_of(program, graph, sites, action)
    changed = FxQuantizeLinear(prepared=prepared).apply(graph, groups(sites, action + merged), sites)
    return program, graph, sites, prepared, changed


@pytest.mark.parametrize("merged", ["", "_merged"])
@pytest.mark.parametrize("action", TORCH_FORMATS)
def test_every_format_runs_its_own_arithmetic(action, merged):
    program, graph, sites, prepared, changed = quantized(action, merged)
    assert changed == len(sites) == 3
    assert sum(node.op == "call_module" for node in graph.graph.nodes) == (2 if merged else 3)
    assert without_values(graph) == []
    assert not list(graph.parameters())
    ops = [op for op in net_of(graph, program).ops.values() if op.kind == "matmul_nbits"]
    assert len(ops) == (2 if merged else 3)
    second, third = run(graph, program)
    error = distance(run(graph, program), run(program.graph, program))
    assert 1e-4 < error < (0.3 if action.startswith("int4") else 0.05)
    x = torch.from_numpy(program.sample["x"]).reshape(-1, WIDTH)
    site = next(site for site in sites.values() if site.out_features == 33)
    wanted = simulate(prepared[site.id], x)
    if action in ("int8_weight", "int4_weight"):
        wanted = x @ torch.from_numpy(effective_weight(prepared[site.id])) + torch.from_numpy(prepared[site.id].tensors["bias"])
    assert distance([second], [wanted.reshape(3, 7, 33)]) < (1e-2 if action == "int4_weight" else 1e-5)
    assert third.shape == (3, 7, 20)
    pass_ = FxQuantizeLinear(prepared=prepared)
    assert pass_.apply(graph, groups(sites, action + merged), sites) == 0


def test_a_quantized_graph_can_be_copied_and_still_runs():
    program, graph, *_ = quantized("int8_static", "_merged")
    before = run(graph, program)
    assert distance(run(copy.deepcopy(graph), program), before) == 0


def test_a_bias_behind_the_matmul_goes_into_the_module():
    _, graph, sites, _, _ = quantized("int8_weight")
    site = next(site for site in sites.values() if site.out_features == 20)
    nodes = {node.name: node for node in graph.graph.nodes}
    if len(site.ops) > 1:
        assert nodes[site.output].op == "call_module"
        assert not any(str(node.target) == "shift" for node in nodes.values())


def test_shapes_stay_free():
    program = traced(Pair(), torch.randn(3, 7, WIDTH), dynamic={"x": {0: "batch"}})
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    prepared = prepared_of(program, graph, sites, "int8_dynamic")
    FxQuantizeLinear(prepared=prepared).apply(graph, groups(sites, "int8_dynamic_merged"), sites)
    call = next(node for node in graph.graph.nodes if node.op == "call_module")
    assert isinstance(call.meta["val"].shape[0], torch.SymInt)
    assert call.meta["nn_module_stack"]
    assert run(graph, program, x=np.ones((5, 7, WIDTH), np.float32))[0].shape == (5, 7, 33)


def test_missing_weights_and_unknown_sites_are_named():
    program = traced(Pair(), torch.randn(3, 7, WIDTH))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    with pytest.raises(InputError, match="is nothing"):
        FxQuantizeLinear().apply(graph, [choice("int8_dynamic", sites)], sites)
    prepared = prepared_of(program, graph, sites, "int4_weight")
    with pytest.raises(InputError, match="is int4_weight"):
        FxQuantizeLinear(prepared=prepared).apply(graph, [choice("int8_dynamic", sites)], sites)
    with pytest.raises(InputError, match="'nowhere'"):
        FxQuantizeLinear(prepared=prepared).apply(graph, [choice("int8_dynamic", {"nowhere": None})], sites)
