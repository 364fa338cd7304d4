"""Linears on one input merged into one: the same outputs, fewer matmuls, no old weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.passes.fx_merge_linear import FxMergeLinear

from .fx_graphs import (
    aten,
    choice,
    cleaned,
    clone,
    distance,
    groups,
    run,
    sites_of,
    targets,
    traced,
    traced_family,
    without_values,
)

LINEARS = {aten.linear.default, aten.addmm.default, aten.mm.default, aten.matmul.default}


class Heads(nn.Module):
    """q, k and v of different widths, with and without bias, then an attention that views them in heads of two."""

    def __init__(self, biases=(True, True, True)):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(5, n, bias=b) for n, b in zip((6, 6, 4), biases, strict=True))

    def forward(self, x):
        q, k, v = (each(x).view(*x.shape[:2], 2, -1).transpose(1, 2) for each in (self.query, self.key, self.value))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], -1), self.key(x).view(
            -1
        )


class Transposed(nn.Module):
    """GPT-2's way: x W + b through addmm on rows, W stored [K, N], and a plain product beside it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(5, n)) for n in (3, 7))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x):
        rows = x.view(-1, 5)
        return torch.addmm(self.bias, rows, self.first, alpha=0.5, beta=2.0), torch.mm(x.view(-1, 5), self.second).view(-1, 7)


def linears(graph):
    return sum(target in LINEARS for target in targets(graph))


@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
def test_one_wide_matmul_and_a_split(biases):
    program = traced(Heads(biases), torch.randn(2, 9, 5))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    before = linears(graph)
    changed = FxMergeLinear().apply(graph, groups(sites, "merged"), sites)
    assert changed == 3
    assert linears(graph) == before - 2
    assert distance(run(graph, program), run(program.graph, program)) < 1e-6
    assert without_values(graph) == []
    assert len(list(graph.parameters())) == (2 if any(biases) else 1)
    assert FxMergeLinear().apply(graph, groups(sites, "merged"), sites) == 0


def test_factors_of_addmm_go_into_the_weights():
    program = traced(Transposed(), torch.randn(2, 4, 5))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    plain = next(iter(sites.values()))
    sites = {"mm": plain, "addmm": replace(plain, id="addmm", ops=("addmm",), output="addmm", weight="first", bias="bias")}
    assert FxMergeLinear().apply(graph, [choice("merged", sites)], sites) == 2
    assert linears(graph) == 1
    assert distance(run(graph, program), run(program.graph, program)) < 1e-6


def test_linears_on_different_inputs_and_other_actions_stay():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.second(self.first(x).relu())

    program = traced(Chain(), torch.randn(3, 4))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    assert FxMergeLinear().apply(graph, [choice("merged", sites)], sites) == 0
    assert FxMergeLinear().apply(graph, [choice("leave", sites)], sites) == 0
    with pytest.raises(InputError, match="'nowhere'"):
        FxMergeLinear().apply(graph, [choice("merged", {"nowhere": None})], sites)


def test_views_of_the_pieces_are_relaxed_in_a_graph_that_was_never_cleaned():
    program = traced(Heads(), torch.randn(2, 9, 5))
    graph = clone(program.graph)
    assert aten.view.default in targets(graph)
    sites = sites_of(graph, program, "linear")
    assert FxMergeLinear().apply(graph, [choice("merged", sites)], sites) >= 3
    assert distance(run(graph, program), run(program.graph, program)) < 1e-6


def test_names_of_values_and_paths_of_modules_stay():
    program = traced(Heads(), torch.randn(2, 9, 5))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    FxMergeLinear().apply(graph, groups(sites, "merged"), sites)
    nodes = {node.name: node for node in graph.graph.nodes}
    for site in sites.values():
        assert "nn_module_stack" in nodes[site.output].meta


@pytest.mark.long
@pytest.mark.parametrize(("family", "merged"), [("bert", 6), ("llama", 10), ("t5", 24), ("vit", 6)])
def test_transformers_with_free_sizes(family, merged):
    program = traced_family(family)
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    assert FxMergeLinear().apply(graph, groups(sites, "merged"), sites) == merged
    assert distance(run(graph, program), run(program.graph, program)) < 1e-5
