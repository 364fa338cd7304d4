"""A linear site in a graph: what is read off it, which sites share an input, and sentences for what does not fit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.passes.fx_linear import linears_of, replace_linear

from .fx_graphs import choice, cleaned, sites_of, traced


class Forms(nn.Module):
    """The same map in four spellings, each on its own copy of the same rows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        rows = x.relu()
        return (
            self.linear(rows),
            torch.addmm(self.bias, rows, self.weight),
            torch.mm(rows, self.weight) + self.bias,
            torch.addmm(rows.cos() @ self.weight, rows.neg(), self.weight),
        )


@pytest.fixture
def found():
    torch.manual_seed(0)
    program = traced(Forms(), torch.randn(5, 4))
    graph = cleaned(program)
    return graph, sites_of(graph, program, "linear")


def test_every_spelling_gives_its_weight_and_bias(found):
    graph, sites = found
    groups = linears_of(graph, choice("merged", sites), sites)
    rows = torch.randn(7, 4)
    outputs = {}
    for linear in groups[0]:
        outputs[linear.site.output] = rows @ linear.weight + (0 if linear.bias is None else linear.bias)
        assert linear.weight.shape == (4, 6)
    results = next(iter(reversed(graph.graph.nodes))).args[0]
    wanted = [
        nn.functional.linear(rows, graph.get_parameter("linear.weight"), graph.get_parameter("linear.bias")),
        *[rows @ graph.get_parameter("weight") + graph.get_parameter("bias")] * 2,
    ]
    for node, tensor in zip(results[:3], wanted, strict=True):
        assert torch.allclose(outputs[node.name], tensor, atol=1e-5)


def test_sites_with_one_input_come_together_in_graph_order(found):
    graph, sites = found
    order = [node.name for node in graph.graph.nodes]
    groups = linears_of(graph, choice("merged", dict(reversed(sites.items()))), sites)
    assert len({group[0].x for group in groups}) == len(groups)
    for group in groups:
        places = [order.index(linear.matmul.name) for linear in group]
        assert places == sorted(places)


def test_an_add_behind_the_matmul_goes_with_it(found):
    graph, sites = found
    linear = next(each for group in linears_of(graph, choice("merged", sites), sites) for each in group if each.add is not None)
    name = linear.add.name
    with graph.graph.inserting_before(linear.matmul):
        new = graph.graph.call_function(torch.ops.aten.relu.default, (linear.x,))
    replace_linear(linear, new)
    assert new.name == name
    graph.graph.lint()


def test_what_does_not_fit_is_one_sentence(found):
    graph, sites = found
    first = next(iter(sites.values()))
    with pytest.raises(InputError, match="'nowhere'"):
        linears_of(graph, choice("merged", {"nowhere": None}), sites)
    with pytest.raises(InputError, match="not an add"):
        linears_of(graph, choice("merged", {first.id: first}), {first.id: replace(first, output="relu")})
    computed = [node for node in graph.graph.nodes if node.target is torch.ops.aten.addmm.default][-1]
    site = replace(first, ops=(computed.name,), output=computed.name)
    with pytest.raises(InputError, match="computed value"):
        linears_of(graph, choice("merged", {first.id: site}), {first.id: site})
    gone = replace(first, ops=("gone",))
    assert linears_of(graph, choice("merged", {first.id: gone}), {first.id: gone}) == []
