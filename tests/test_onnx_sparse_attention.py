"""Attentions in many spellings, put into the sparse form, give the reference's numbers at lengths other than those they were found at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.prepare import prepare, simulate
from szilard.passes.onnx_sparse_attention import SparsifyAttention

from .onnx_attentions import Spelling, attention, feeds, found
from .onnx_graphs import apply, assert_same, choose, kinds, run

spellings = st.builds(
    Spelling,
    heads=st.integers(2, 3), width=st.sampled_from([4, 5]), value_width=st.sampled_from([4, 7]),
    key=st.sampled_from(["direct", "twice", "input"]), scale=st.sampled_from(["scores", "query"]), packed=st.booleans(),
    layers=st.integers(1, 2), named_axes=st.booleans(), opset=st.sampled_from([15, 18]),
)  # fmt: skip


def split(array: np.ndarray, heads: int) -> np.ndarray:
    """[B, N, H * D] or [B, N, H, D] as [B, H, N, D]."""
    return np.ascontiguousarray(array.reshape(*array.shape[:2], heads, -1).transpose(0, 2, 1, 3))


def sparse(spelling: Spelling, seed: int, budget: int, tile: int = 4):
    """(model before, model after, what was prepared) for a site calibrated on random operands."""
    random = np.random.default_rng(seed)
    model = attention(spelling)
    arrays = feeds(spelling, random, 2, 31, 31)
    _, sites = found(model, arrays)
    queries, keys = (split(arrays[name], spelling.heads)[0] for name in "qk")
    made = replace(prepare(queries, keys, length=31, scale=sites[0].scale, tile=tile), budget=budget)
    passed = SparsifyAttention(prepared={site.id: made for site in sites})
    after, changed = apply(passed, model, [choose("spectral_sparse", site) for site in sites], sites)
    assert changed == spelling.layers
    return model, after, made


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), spelling=spellings, budget=st.integers(1, 4))
def test_the_rewritten_model_gives_the_references_numbers(seed, spelling, budget):
    _, after, made = sparse(spelling, seed, budget)
    assert {node.domain for node in after.graph} == {""}
    for batch, length in ((1, 31), (2, 18), (1, 3)):
        arrays = feeds(spelling, np.random.default_rng(seed + length), batch, length, length)
        operands = [torch.from_numpy(split(arrays[name], spelling.heads)) for name in "qkv"]
        wanted = spelling.layers * simulate(made, *operands).numpy()
        if spelling.packed:
            wanted = wanted.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        np.testing.assert_allclose(run(after, arrays)[0], wanted, rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize("spelling", [Spelling(), Spelling(key="twice", layers=2), Spelling(key="input", packed=False)])
def test_short_lengths_are_exact(spelling):
    before, after, _ = sparse(spelling, 3, budget=4)
    for length in (1, 7, 16):
        assert_same(before, after, feeds(spelling, np.random.default_rng(length), 2, length, length))
    arrays = feeds(spelling, np.random.default_rng(0), 1, 40, 40)
    assert np.abs(run(before, arrays)[0] - run(after, arrays)[0]).max() > 1e-3


def test_the_dense_products_are_gone():
    _, after, _ = sparse(Spelling(), 0, budget=2)
    everything = [node.op_type for node in after.graph.all_nodes()]
    assert everything.count("Softmax") == 2
    assert everything.count("TopK") == 3


def test_what_it_cannot_do_is_a_sentence():
    model = attention(Spelling())
    _, (site,) = found(model, feeds(Spelling(), np.random.default_rng(0), 1, 8, 8))
    with pytest.raises(InputError, match="no prepared budgets"):
        SparsifyAttention().apply(model.clone(), [choose("spectral_sparse", site)], {site.id: site})
    assert SparsifyAttention().apply(model, [choose("fused_attention", site)], {site.id: site}) == 0
    old = attention(Spelling(opset=13))
    _, (site,) = found(old, feeds(Spelling(opset=13), np.random.default_rng(0), 1, 8, 8))
    before = kinds(old)
    assert SparsifyAttention().apply(old, [choose("spectral_sparse", site)], {site.id: site}) == 0
    assert kinds(old) == before
