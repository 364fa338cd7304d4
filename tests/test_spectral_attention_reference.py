"""Tests of kernels/spectral_attention/reference.py: what must hold of the operator whatever the data, and its error on planted clusters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from szilard.kernels.spectral_attention.codebook import calibrate
from szilard.kernels.spectral_attention.reference import sorted_by_leaf, spectral_attention, tiles_of

from .sparse_attention import planted

SCALE = 0.3


def operands(seed, batch, heads, queries, keys, width, depth, leaves):
    random = torch.Generator().manual_seed(seed)
    shapes = [
        (batch, heads, queries, width),
        (batch, heads, keys, width),
        (batch, heads, keys, depth),
        *[(heads, leaves, width)] * 2,
    ]
    return [torch.randn(shape, generator=random) for shape in shapes]


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2), "heads": st.integers(1, 3), "queries": st.integers(1, 40), "keys": st.integers(1, 40),
        "width": st.integers(1, 9), "depth": st.integers(1, 9), "leaves": st.sampled_from([1, 2, 8]),
    }
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), sizes=sizes, tile=st.integers(1, 12))
def test_a_budget_of_all_tiles_is_dense_attention(seed, sizes, tile):
    q, k, v, query_codebook, key_codebook = operands(seed, **sizes)
    found = spectral_attention(q, k, v, query_codebook, key_codebook, scale=SCALE, tile=tile, budget=40)
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v, scale=SCALE), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), sizes=sizes, tile=st.integers(1, 12), budget=st.integers(0, 5))
def test_weights_sum_to_one(seed, sizes, tile, budget):
    q, k, v, *codebooks = operands(seed, **sizes)
    constant = v[:1, :, :1].expand_as(v)
    found = spectral_attention(q, k, constant, *codebooks, scale=SCALE, tile=tile, budget=budget)
    torch.testing.assert_close(found, constant[:, :, :1].expand_as(found), rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), sizes=sizes, tile=st.integers(1, 12))
def test_a_budget_of_none_is_attention_to_centroids(seed, sizes, tile):
    q, k, v, *codebooks = operands(seed, **sizes)
    found = spectral_attention(q, k, v, *codebooks, scale=SCALE, tile=tile, budget=0)
    order = sorted_by_leaf(k, codebooks[1])
    for batch, head in np.ndindex(q.shape[:2]):
        parts = order[batch, head].split(tile)
        keys, values = (torch.stack([x[batch, head, part].mean(0) for part in parts]) for x in (k, v))
        counts = torch.tensor([float(len(part)) for part in parts])
        weights = (SCALE * q[batch, head] @ keys.T + counts.log()).softmax(-1)
        torch.testing.assert_close(found[batch, head], weights @ values, rtol=1e-4, atol=1e-5)


def test_rows_come_back_in_their_order():
    q, k, v, *codebooks = operands(1, 2, 3, 37, 53, 6, 5, 8)
    mixed, other = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (37, 53))
    options = {"scale": SCALE, "tile": 64, "budget": 0}
    plain = spectral_attention(q, k, v, *codebooks, **options)
    torch.testing.assert_close(
        spectral_attention(q[:, :, mixed], k[:, :, other], v[:, :, other], *codebooks, **options), plain[:, :, mixed]
    )


def test_leaves_are_the_nearest_and_ties_keep_their_order():
    codebook = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]]])
    x = torch.tensor([[[[4.0, 3.0], [0.1, 0.0], [3.5, 0.0], [0.2, 0.1], [9.0, 9.0]]]])
    assert sorted_by_leaf(x, codebook).tolist() == [[[1, 3, 2, 0, 4]]]
    tiles, counts = tiles_of(x, sorted_by_leaf(x, codebook), 2)
    assert counts.tolist() == [2.0, 2.0, 1.0]
    assert tiles[0, 0, 2].tolist() == [[9.0, 9.0], [0.0, 0.0]]


def test_exact_tiles_are_those_where_a_centroid_would_mislead():
    """Keys of one tile are all alike, those of the other differ along the query: with one exact tile, only the second needs it."""
    alike, spread = torch.tensor([1.0, 0.0]).repeat(4, 1), torch.tensor([[5.0, 1.0], [-5.0, 1.0], [5.0, 1.0], [-5.0, 1.0]])
    k, v = torch.cat([alike, spread])[None, None], torch.eye(8)[None, None]
    q = torch.tensor([[[[1.0, 0.0]]]])
    codebook = torch.tensor([[[1.0, -4.0], [0.0, 4.0]]])
    found = spectral_attention(q, k, v, codebook, codebook, scale=1.0, tile=4, budget=1)
    dense = scaled_dot_product_attention(q, k, v, scale=1.0)
    torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_on_planted_clusters_falls_with_the_budget(seed):
    length, heads, tile = 1024, 4, 32
    calibration = planted(seed + 100, 1, heads, length, 32, 24)
    codebooks = [torch.from_numpy(np.stack([calibrate(head, 32) for head in x[0]])) for x in calibration[:2]]
    q, k, v = map(torch.from_numpy, planted(seed, 1, heads, length, 32, 24))
    dense = scaled_dot_product_attention(q, k, v)
    errors = [
        relative(spectral_attention(q, k, v, *codebooks, scale=32**-0.5, tile=tile, budget=budget), dense)
        for budget in (0, 2, 4, 8, 16, 32)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.15
    assert errors[0] > 2 * errors[3]
    assert errors[-1] < 1e-5
