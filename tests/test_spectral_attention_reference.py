"""Tests of kernels/spectral_attention/reference.py: what must hold of the operator whatever the data, and its error on planted clusters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from szilard.kernels.spectral_attention.codebook import calibrate
from szilard.kernels.spectral_attention.reference import sorted_by_leaf, spectral_attention, tiles_of

from .sparse_attention import centroid_attention, operands, planted, relative

SCALE = 0.3

sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2), "heads": st.sampled_from([(1, 1), (3, 3), (4, 2), (3, 1)]), "queries": st.integers(1, 40),
        "keys": st.integers(1, 40), "width": st.integers(1, 9), "depth": st.integers(1, 9), "leaves": st.sampled_from([1, 2, 8, 64]),
    }
)  # fmt: skip
seeds = st.integers(0, 2**31)


def dense(q, k, v, mask=None, scale=SCALE):
    mask = None if mask is None else mask[:, None, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)


def masked(seed, batch, keys):
    """True for at least one key of each row."""
    random = np.random.default_rng(seed)
    mask = random.random((batch, keys)) < random.random()
    mask[:, random.integers(keys)] = True
    return torch.from_numpy(mask)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, sizes=sizes, tile=st.integers(1, 12))
def test_a_budget_of_all_tiles_is_dense_attention(seed, sizes, tile):
    q, k, v, *codebooks = operands(seed, **sizes)
    for mask in (None, masked(seed, *k.shape[::2])):
        found = spectral_attention(q, k, v, *codebooks, scale=SCALE, tile=tile, budget=40, key_mask=mask)
        torch.testing.assert_close(found, dense(q, k, v, mask), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, sizes=sizes, tile=st.integers(1, 12), budget=st.integers(0, 5))
def test_a_constant_value_comes_back(seed, sizes, tile, budget):
    q, k, v, *codebooks = operands(seed, **sizes)
    constant = v[:1, :, :1].expand_as(v)
    mask = masked(seed, *k.shape[::2])
    found = spectral_attention(q, k, constant, *codebooks, scale=SCALE, tile=tile, budget=budget, key_mask=mask)
    wanted = constant[:, :, :1].repeat_interleave(q.shape[1] // k.shape[1], 1).expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, sizes=sizes, tile=st.integers(1, 12))
def test_a_budget_of_none_is_attention_to_centroids(seed, sizes, tile):
    q, k, v, *codebooks = operands(seed, **sizes)
    mask = masked(seed, *k.shape[::2])
    found = spectral_attention(q, k, v, *codebooks, scale=SCALE, tile=tile, budget=0, key_mask=mask)
    wanted = centroid_attention(q, k, v, *codebooks, SCALE, tile, mask)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, sizes=sizes, tile=st.integers(1, 12), budget=st.integers(0, 4))
def test_heads_that_share_keys_equal_repeated_ones(seed, sizes, tile, budget):
    q, k, v, codebook, shared = operands(seed, **sizes)
    repeats = q.shape[1] // k.shape[1]
    options = {"scale": SCALE, "tile": tile, "budget": budget}
    repeated = [x.repeat_interleave(repeats, dim) for x, dim in ((k, 1), (v, 1), (shared, 0))]
    wanted = spectral_attention(q, *repeated[:2], codebook, repeated[2], **options)
    torch.testing.assert_close(spectral_attention(q, k, v, codebook, shared, **options), wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, sizes=sizes, tile=st.integers(1, 12), budget=st.integers(0, 4))
def test_masked_keys_might_as_well_not_be_there(seed, sizes, tile, budget):
    q, k, v, *codebooks = operands(seed, **sizes)
    mask = masked(seed, *k.shape[::2])
    options = {"scale": SCALE, "tile": tile, "budget": budget}
    spoiled = [x.masked_fill(~mask[:, None, :, None], torch.nan) for x in (k, v)]
    found = spectral_attention(q, *spoiled, *codebooks, **options, key_mask=mask)
    for one, kept in enumerate(mask):
        alone = spectral_attention(q[one, None], k[one, None, :, kept], v[one, None, :, kept], *codebooks, **options)
        torch.testing.assert_close(found[one, None], alone, rtol=1e-3, atol=1e-4)


def test_a_row_without_keys_gives_zeros():
    q, k, v, *codebooks = operands(0, 2, (4, 2), 30, 20, 8, 5, 4)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1] = False
    found = spectral_attention(q, k, v, *codebooks, scale=SCALE, tile=8, budget=1, key_mask=mask)
    assert found[0].isfinite().all()
    assert found[0].abs().min() > 0
    assert found[1].eq(0).all()


@pytest.mark.parametrize("budgets", [(0, 2, 5, 9), (3, 0, 0, 1)])
def test_each_head_has_its_own_budget(budgets):
    q, k, v, *codebooks = operands(1, 2, (4, 2), 70, 70, 8, 5, 16)
    options = {"scale": SCALE, "tile": 8}
    found = spectral_attention(q, k, v, *codebooks, **options, budget=budgets)
    for head, budget in enumerate(budgets):
        wanted = spectral_attention(q, k, v, *codebooks, **options, budget=budget)
        torch.testing.assert_close(found[:, head], wanted[:, head], rtol=1e-5, atol=1e-6)


def test_rows_come_back_in_their_order():
    """Queries only: a tile of queries is as it was once sorted, where no two share a leaf. Keys likewise."""
    q, k, v, *_ = operands(1, 1, (2, 2), 37, 53, 6, 5, 8)
    mixed, other = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (37, 53))
    options = {"scale": SCALE, "tile": 8, "budget": 2}
    codebooks = q[0], k[0]
    plain = spectral_attention(q, k, v, *codebooks, **options)
    found = spectral_attention(q[:, :, mixed], k[:, :, other], v[:, :, other], *codebooks, **options)
    torch.testing.assert_close(found, plain[:, :, mixed], rtol=1e-4, atol=1e-5)


def test_leaves_are_the_nearest_and_ties_keep_their_order():
    codebook = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]]])
    x = torch.tensor([[[[4.0, 3.0], [0.1, 0.0], [3.5, 0.0], [0.2, 0.1], [9.0, 9.0]]]])
    assert sorted_by_leaf(x, codebook).tolist() == [[[1, 3, 2, 0, 4]]]
    tiles = tiles_of(x, sorted_by_leaf(x, codebook), 2)
    assert tiles.counts.tolist() == [[[2, 2, 1]]]
    assert tiles.rows[0, 0, 2].tolist() == [[9.0, 9.0], [0.0, 0.0]]
    mask = torch.tensor([[True, False, True, True, False]])
    assert sorted_by_leaf(x, codebook, mask).tolist() == [[[3, 2, 0, 1, 4]]]
    tiles = tiles_of(x, sorted_by_leaf(x, codebook, mask), 2, mask)
    assert tiles.counts.tolist() == [[[2, 1, 0]]]
    assert tiles.rows[0, 0, 1:].tolist() == [[[4.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]


def test_exact_tiles_are_those_where_a_centroid_would_mislead():
    """Keys of one tile are all alike, those of the other differ along the query: with one exact tile, only the second needs it."""
    alike, spread = torch.tensor([1.0, 0.0]).repeat(4, 1), torch.tensor([[5.0, 1.0], [-5.0, 1.0], [5.0, 1.0], [-5.0, 1.0]])
    k, v = torch.cat([alike, spread])[None, None], torch.eye(8)[None, None]
    q = torch.tensor([[[[1.0, 0.0]]]])
    codebook = torch.tensor([[[1.0, -4.0], [0.0, 4.0]]])
    found = spectral_attention(q, k, v, codebook, codebook, scale=1.0, tile=4, budget=1)
    torch.testing.assert_close(found, dense(q, k, v, scale=1.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [16, 80, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(width, dtype):
    q, k, v, *codebooks = operands(2, 1, (4, 2), 100, 130, width, width, 16, dtype)
    options = {"scale": width**-0.5, "tile": 16, "budget": 3}
    found = spectral_attention(q, k, v, *codebooks, **options)
    wanted = spectral_attention(q.float(), k.float(), v.float(), *codebooks, **options)
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(dtype))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_on_planted_clusters_falls_with_the_budget(seed):
    length, heads, tile = 1024, 4, 32
    calibration = planted(seed + 100, 1, heads, length, 32, 24)
    codebooks = [torch.from_numpy(np.stack([calibrate(head, 32) for head in x[0]])) for x in calibration[:2]]
    q, k, v = map(torch.from_numpy, planted(seed, 1, heads, length, 32, 24))
    wanted = dense(q, k, v, scale=32**-0.5)
    errors = [
        relative(spectral_attention(q, k, v, *codebooks, scale=32**-0.5, tile=tile, budget=budget), wanted)
        for budget in (0, 2, 4, 8, 16, 32)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.12
    assert errors[0] > 2 * errors[3]
    assert errors[-1] < 1e-5


def test_refusals():
    q, k, v, *codebooks = operands(0, 1, (4, 2), 9, 9, 4, 4, 2)
    options = {"scale": 1.0, "tile": 4}
    with pytest.raises(ValueError, match="4 query heads cannot share 2 key heads and 1"):
        spectral_attention(q, k, v[:, :1], *codebooks, **options, budget=1)
    with pytest.raises(ValueError, match="one for each of 4 heads"):
        spectral_attention(q, k, v, *codebooks, **options, budget=(1, 2))
    with pytest.raises(ValueError, match="none below zero"):
        spectral_attention(q, k, v, *codebooks, **options, budget=-1)
