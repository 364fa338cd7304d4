"""Linears in float16 and bfloat16 in torch.fx: the numbers of the reference, one cast of what several read, dtypes and free shapes kept."""

import numpy as np
import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.kernels.quantized_linear.formats import prepare_group
from szilard.kernels.quantized_linear.reference import simulate
from szilard.passes.fx_half_linear import DTYPES, FxHalfLinear
from szilard.rewriter.print_fx import print_fx

from .fx_graphs import choice, cleaned, distance, groups, net_of, run, sites_of, stored_linears, traced, without_values
from .test_fx_low_rank import WIDTH, Three


def halved(action, merged="", dynamic=None):
    torch.manual_seed(0)
    program = traced(Three(), torch.randn(3, 7, WIDTH), dynamic=dynamic)
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    prepared = {}
    for each in groups(sites, action):
        weights, biases = stored_linears(graph, [sites[name] for name in each.sites])
        prepared |= dict(zip(each.sites, prepare_group(action, weights, biases), strict=True))
    before = run(graph, program)
    rewrite = FxHalfLinear(prepared=prepared)
    changed = rewrite.apply(graph, groups(sites, action + merged), sites)
    assert rewrite.apply(graph, groups(sites, action + merged), sites) == 0
    return program, graph, sites, prepared, changed, before


# One cast of x for the two that read it, one for the third, and one behind each product.
@pytest.mark.parametrize(("merged", "products", "casts"), [("", 3, 5), ("_merged", 2, 4)])
@pytest.mark.parametrize(("action", "least", "most", "close"), [("float16", 1e-5, 1e-3, 1e-4), ("bfloat16", 1e-3, 1e-2, 1e-3)])
def test_products_in_16_bits_between_casts(action, least, most, close, merged, products, casts):
    program, graph, sites, prepared, changed, before = halved(action, merged)
    assert changed == 3
    assert without_values(graph) == []
    ops = net_of(graph, program).ops.values()
    assert [sum(op.kind == kind for op in ops) for kind in ("matmul", "cast")] == [products, casts]
    assert {parameter.dtype for parameter in graph.parameters()} == {DTYPES[action]}
    after = run(graph, program)
    assert {each.dtype for each in after} == {torch.float32}
    assert least < distance(after, before) < most
    x = torch.from_numpy(program.sample["x"]).reshape(-1, WIDTH)
    site = next(site for site in sites.values() if site.out_features == 65)
    assert distance([after[0].reshape(-1, 65)], [simulate(prepared[site.id], x)]) < close
    assert print_fx(graph).count("F.linear") == products


@pytest.mark.parametrize("merged", ["", "_merged"])
@pytest.mark.parametrize("action", DTYPES)
def test_shapes_stay_free(action, merged):
    program, graph, *_ = halved(action, merged, dynamic={"x": {0: "batch"}})
    assert run(graph, program, x=np.ones((5, 7, WIDTH), np.float32))[0].shape == (5, 7, 65)


@pytest.mark.parametrize("action", DTYPES)
def test_other_actions_are_left_and_missing_weights_are_named(action):
    program = traced(Three(), torch.randn(3, 7, WIDTH))
    graph = cleaned(program)
    sites = sites_of(graph, program, "linear")
    assert FxHalfLinear().apply(graph, [choice("merged", sites)], sites) == 0
    with pytest.raises(InputError, match="is nothing"):
        FxHalfLinear().apply(graph, groups(sites, action), sites)
