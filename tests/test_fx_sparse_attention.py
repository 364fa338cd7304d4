"""Attention in a torch graph becomes a call of the sparse module, in both forms of a site and at free sizes, and prints with the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.prepare import prepare, simulate
from szilard.passes.fx_graph import insert_call, node_of_value
from szilard.passes.fx_sparse_attention import FxSparseAttention
from szilard.rewriter.print_fx import print_fx, weights_of

from .fx_graphs import aten, choice, cleaned, distance, run, sites_of, targets, traced, without_values
from .sparse_attention import planted

HEADS, LENGTH, WIDTH, DEPTH = 3, 45, 8, 6


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v, as one operator or spelled out, with twice the result behind it."""

    def __init__(self, spelled):
        super().__init__()
        self.spelled = spelled

    def forward(self, q, k, v):
        if self.spelled:
            return 2 * (torch.softmax(q @ k.transpose(-1, -2) * WIDTH**-0.5, -1) @ v)
        return 2 * nn.functional.scaled_dot_product_attention(q, k, v)


def operands(seed, batch=2, length=LENGTH):
    return [torch.from_numpy(x) for x in planted(seed, batch, HEADS, length, WIDTH, DEPTH)]


def sparse(spelled, budget=2, **options):
    """(program, graph after the pass, sites, what was prepared)."""
    program = traced(Attention(spelled), *operands(0), **options)
    graph = cleaned(program)
    sites = sites_of(graph, program, "attention")
    (site,) = sites.values()
    queries, keys, _ = (x[0].numpy() for x in operands(1))
    made = replace(prepare(queries, keys, length=LENGTH, scale=site.scale, tile=8), budget=budget)
    rewrite = FxSparseAttention(prepared={site.id: made})
    assert rewrite.apply(graph, [choice("spectral_sparse", sites)], sites) == 1
    assert rewrite.apply(graph, [choice("spectral_sparse", sites)], sites) == 0
    return program, graph, made


@pytest.mark.parametrize("spelled", [False, True])
def test_the_graph_gives_the_references_numbers(spelled):
    program, graph, made = sparse(spelled)
    assert not {aten.scaled_dot_product_attention.default, aten._softmax.default, aten.softmax.int} & set(targets(graph))
    assert without_values(graph) == []
    q, k, v = operands(3)
    feeds = dict(zip(program.inputs, (x.numpy() for x in (q, k, v)), strict=True))
    found = run(graph, program, **feeds)
    torch.testing.assert_close(found[0], 2 * simulate(made, q, k, v), rtol=1e-4, atol=1e-5)
    assert distance(found, run(program.graph, program, **feeds)) > 1e-3


@pytest.mark.parametrize("spelled", [False, True])
def test_free_sizes_stay_free_and_short_ones_are_exact(spelled):
    axes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length")}
    program, graph, made = sparse(spelled, dynamic=dict.fromkeys("qkv", axes))
    for length in (16, 9, 70):
        q, k, v = operands(length, 1, length)
        feeds = dict(zip(program.inputs, (x.numpy() for x in (q, k, v)), strict=True))
        found = run(graph, program, **feeds)
        torch.testing.assert_close(found[0], 2 * simulate(made, q, k, v), rtol=1e-4, atol=1e-5)
        assert (distance(found, run(program.graph, program, **feeds)) < 1e-5) == (length <= 8 * made.budget)


def test_keys_stored_transposed_are_turned_back():
    """A finder may name k^T where no value holds k; the pass then turns it."""
    program = traced(Attention(False), *operands(0))
    graph = cleaned(program)
    ((name, site),) = sites_of(graph, program, "attention").items()
    queries, keys, _ = (x[0].numpy() for x in operands(1))
    made = replace(prepare(queries, keys, length=LENGTH, scale=site.scale, tile=8), budget=2)
    key = node_of_value(graph, site.key)
    with graph.graph.inserting_after(key):
        turned = insert_call(graph, aten.transpose.int, (key, -2, -1), like=key)
    sites = {name: replace(site, key=turned.name, key_transposed=True)}
    assert FxSparseAttention(prepared={name: made}).apply(graph, [choice("spectral_sparse", sites)], sites) == 1
    torch.testing.assert_close(run(graph, program)[0], 2 * simulate(made, *operands(0)), rtol=1e-4, atol=1e-5)


def test_it_prints_as_plain_torch():
    program, graph, _ = sparse(False)
    text = print_fx(graph)
    assert "szilard" not in text
    assert "class SpectralAttention" in text
    names: dict = {}
    exec(compile(text, "model.py", "exec"), names)
    model = names["Model"]()
    model.load_state_dict(weights_of(graph))
    inputs = operands(5)
    feeds = dict(zip(program.inputs, (x.numpy() for x in inputs), strict=True))
    assert torch.equal(model(*inputs), run(graph, program, **feeds)[0])


def test_only_chosen_sites_change_and_faults_are_sentences():
    program = traced(Attention(False), *operands(0))
    graph = cleaned(program)
    sites = sites_of(graph, program, "attention")
    assert FxSparseAttention().apply(graph, [choice("leave", sites)], sites) == 0
    with pytest.raises(InputError, match="no prepared budgets"):
        FxSparseAttention().apply(graph, [choice("spectral_sparse", sites)], sites)
    with pytest.raises(InputError, match="'nowhere'"):
        FxSparseAttention().apply(graph, [choice("spectral_sparse", {"nowhere": None})], sites)
    assert np.array_equal(targets(graph), targets(cleaned(program)))
