"""Linears as two thin products in ONNX: the numbers of the reference, the first product shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.kernels.low_rank.factors import prepare_low_rank, simulate
from szilard.passes.onnx_low_rank import LowRankLinears
from szilard.passes.onnx_merge_linear import linear_arrays
from szilard.passes.onnx_pass import Surgeon

from .onnx_graphs import apply, choose, kinds, run
from .test_onnx_merge_linear import FORMS, linears

ACTION = "low_rank_half"


def prepared(model, sites, x):
    arrays = [linear_arrays(Surgeon(model), site) for site in sites]
    parts = prepare_low_rank(ACTION, [w for w, _ in arrays], [b for _, b in arrays], x)
    return {site.id: part for site, part in zip(sites, parts, strict=True)}


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.tuples(st.sampled_from(FORMS), st.integers(60, 75)), min_size=1, max_size=3),
    st.integers(70, 80),
    st.sampled_from([11, 18]),
)
def test_nodes_compute_what_the_reference_does(seed, layers, features, opset):
    forms, widths = zip(*layers, strict=True)
    random = np.random.default_rng(seed)
    rank = 2 if any(form.startswith("gemm") for form in forms) else 3
    model, sites, feeds = linears(forms, widths, random, features=features, rank=rank, opset=opset)
    x = feeds["x"].reshape(-1, features)
    weights = prepared(model, sites, random.standard_normal((200, features)).astype(np.float32))
    after, changed = apply(LowRankLinears(weights), model, [choose(ACTION, *sites)], sites)
    assert changed == len(sites)
    # Bias adds of Gemms come to light, all other nodes are products: one of x, and one a site.
    assert kinds(after).count("MatMul") == len(sites) + 1
    assert kinds(after).count("Add") == sum(form != "matmul" for form in forms)
    read = {value.name for node in after.graph for value in node.inputs if value is not None}
    assert set(after.graph.initializers) <= read
    for site, result in zip(sites, run(after, feeds), strict=True):
        expected = simulate(weights[site.id], torch.from_numpy(x)).numpy().reshape(result.shape)
        np.testing.assert_allclose(result, expected, atol=1e-3)


def test_factors_of_another_rank_are_refused():
    random = np.random.default_rng(5)
    model, sites, _ = linears(["add"], (70,), random, features=70)
    known = {site.id: site for site in sites}
    with pytest.raises(InputError, match="is nothing"):
        LowRankLinears().apply(model.clone(), [choose(ACTION, *sites)], known)
    made = prepared(model, sites, random.standard_normal((200, 70)).astype(np.float32))
    with pytest.raises(InputError, match="is low_rank_half"):
        LowRankLinears(made).apply(model.clone(), [choose("low_rank_quarter", *sites)], known)
    assert LowRankLinears(made).apply(model.clone(), [choose("merged", *sites)], known) == 0
