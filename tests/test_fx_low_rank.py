"""Linears as two thin products in torch.fx: the numbers of the reference, the first product shared, dtypes and free shapes kept."""

import numpy as np
import pytest
import torch
from torch import nn

from szilard.kernels.low_rank.factors import prepare_low_rank, simulate
from szilard.passes.fx_low_rank import FxLowRank
from szilard.rewriter.print_fx import print_fx

from .fx_graphs import choice, cleaned, distance, groups, net_of, run, sites_of, stored_linears, traced, without_values

WIDTH = 71
ACTION = "low_rank_half"


class Three(nn.Module):
    """Two linears on one input, and a bias added behind a third that has none."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 67), nn.Linear(WIDTH, 65, bias=False)
        self.third, self.shift = nn.Linear(67, 69, bias=False), nn.Parameter(torch.randn(69))

    def forward(self, x):
        y = self.first(x)
        return self.second(x), self.third(y.relu()) + self.shift


def split(dtype=torch.float32, dynamic=None):
    torch.manual_seed(0)
    program = traced(Three().to(dtype), torch.randn(3, 7, WIDTH).to(dtype), dynamic=dynamic)
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    prepared = {}
    for each in groups(sites, ACTION):
        weights, biases = stored_linears(graph, [sites[name] for name in each.sites])
        prepared |= dict(zip(each.sites, prepare_low_rank(ACTION, weights, biases), strict=True))
    rewrite = FxLowRank(prepared=prepared)
    changed = rewrite.apply(graph, groups(sites, ACTION), sites)
    assert rewrite.apply(graph, groups(sites, ACTION), sites) == 0
    return program, graph, sites, prepared, changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_two_products_in_the_place_of_each(dtype):
    program, graph, sites, prepared, changed = split(dtype)
    assert changed == 3
    assert without_values(graph) == []
    # x meets one first factor, although two layers read it.
    assert sum(op.kind == "matmul" for op in net_of(graph, program).ops.values()) == 5
    assert {parameter.dtype for parameter in graph.parameters()} == {dtype}
    x = torch.from_numpy(program.sample["x"].astype(np.float32)).reshape(-1, WIDTH)
    site = next(site for site in sites.values() if site.out_features == 65)
    second, third = run(graph, program)
    assert distance([second.float()], [simulate(prepared[site.id], x).reshape(3, 7, 65)]) < (
        1e-6 if dtype is torch.float32 else 0.02
    )
    assert third.shape == (3, 7, 69)
    assert print_fx(graph).count("F.linear") == 5


def test_shapes_stay_free():
    program, graph, *_ = split(dynamic={"x": {0: "batch"}})
    assert run(graph, program, x=np.ones((5, 7, WIDTH), np.float32))[0].shape == (5, 7, 65)


def test_other_actions_are_left():
    program = traced(Three(), torch.randn(3, 7, WIDTH))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    assert FxLowRank().apply(graph, [choice("merged", sites)], sites) == 0
