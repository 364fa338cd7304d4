"""Tests of kernels/spectral_attention/torch_module.py: the module that is emitted gives the reference's numbers with torch alone."""

import inspect
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from szilard.kernels.spectral_attention import torch_module
from szilard.kernels.spectral_attention.prepare import SparsePrepared, prepare, simulate

from .sparse_attention import operands, planted

HEADS, WIDTH, DEPTH = 3, 12, 7


@pytest.fixture(scope="module")
def prepared():
    queries, keys, _ = (x[0] for x in planted(0, 1, HEADS, 600, WIDTH, DEPTH))
    return replace(prepare(queries, keys, length=600, scale=0.3, tile=16), budget=4)


@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 333, 333), (1, 1, 1), (3, 17, 5), (1, 5, 257), (2, 129, 160)])
def test_equals_the_reference(prepared, batch, queries, keys):
    q, _, _ = planted(queries, batch, HEADS, queries, WIDTH, DEPTH)
    _, k, v = planted(keys + 1, batch, HEADS, keys, WIDTH, DEPTH)
    operands = [torch.from_numpy(x) for x in (q, k, v)]
    found = torch_module.build(prepared)(*operands)
    torch.testing.assert_close(found, simulate(prepared, *operands), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "queries", "keys"),
    [
        ({"key_tile": 8, "budget": (3, 0, 9)}, 100, 150), ({"key_tile": 32}, 77, 200), ({"budget": 0}, 40, 90),
        ({"budget": 99}, 33, 90), ({"key_tile": 5, "budget": (1, 1, 2)}, 65, 33),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kv_heads", [1, 3])
@pytest.mark.parametrize("masks", [False, True])
def test_equals_the_reference_whatever_the_options(prepared, changes, queries, keys, kv_heads, masks):
    q, k, v = (torch.from_numpy(x) for x in planted(queries, 2, HEADS, max(queries, keys), WIDTH, DEPTH))
    operands = q[:, :, :queries], k[:, :kv_heads, :keys], v[:, :kv_heads, :keys]
    mask = torch.rand(2, keys, generator=torch.Generator().manual_seed(keys)) < 0.6 if masks else None
    made = replace(prepared, key_codebook=prepared.key_codebook[:kv_heads], **changes)
    found = torch_module.build(made)(*operands, *([mask] if masks else []))
    torch.testing.assert_close(found, simulate(made, *operands, mask), rtol=1e-4, atol=2e-5)


def test_short_lengths_are_dense_where_that_is_asked_for(prepared):
    module = torch_module.build(replace(prepared, dense_below=100))
    for length in (99, 100):
        given_ = [torch.from_numpy(x) for x in planted(length, 2, HEADS, length, WIDTH, DEPTH)]
        mask = torch.ones(1, length, dtype=torch.bool)
        mask[:, length // 2 :] = False
        for masks, seen in (((), None), ((mask,), mask[:, None, None])):
            dense = scaled_dot_product_attention(*given_, attn_mask=seen, scale=0.3)
            made = simulate(prepared, *given_, mask.expand(2, -1) if masks else None)
            torch.testing.assert_close(module(*given_, *masks), dense if length < 100 else made, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_reference_rounded(prepared, dtype):
    operands = [torch.from_numpy(x).to(dtype) for x in planted(5, 1, HEADS, 150, WIDTH, DEPTH)]
    found = torch_module.build(prepared).to(dtype)(*operands)
    books = [torch.from_numpy(x).to(dtype).float().numpy() for x in (prepared.query_codebook, prepared.key_codebook)]
    wanted = simulate(replace(prepared, query_codebook=books[0], key_codebook=books[1]), *operands)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31), width=st.sampled_from([16, 40, 64, 80, 128, 256]), queries=st.integers(1, 90),
    keys=st.integers(1, 90), dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    heads=st.sampled_from([(2, 2), (4, 2)]), budget=st.sampled_from([0, 2, 99]), masked=st.booleans(),
)  # fmt: skip
def test_any_width_length_dtype_and_mask(seed, width, queries, keys, dtype, heads, budget, masked):
    """Codebooks stay float32. All tiles exact is dense attention of the same numbers, computed in float32."""
    q, k, v, *books = operands(seed, 2, heads, queries, keys, width, width // 2, 8, dtype=dtype)
    mask = torch.rand(2, keys, generator=torch.Generator().manual_seed(seed)) < 0.7 if masked else None
    made = SparsePrepared(books[0].numpy(), books[1].numpy(), 16, budget, width**-0.5, 8)
    found = torch_module.build(made)(q, k, v, mask)
    bounds = {"rtol": max(1e-3, 2 * torch.finfo(dtype).eps), "atol": 1e-3}
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), simulate(made, q, k, v, mask).float(), **bounds)
    if budget == 99:
        some = mask.any(-1)[:, None, None, None] if masked else torch.ones(2, 1, 1, 1, dtype=torch.bool)
        kept = None if mask is None else mask[:, None, None] | ~some
        dense = scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=kept, enable_gqa=True)
        torch.testing.assert_close(found.float(), dense * some, **bounds)


@pytest.mark.parametrize("budget", [0, 2, 99])
def test_gradients_are_those_of_the_reference(prepared, budget):
    made = replace(prepared, budget=budget)
    operands = [torch.from_numpy(x).requires_grad_() for x in planted(6, 1, HEADS, 70, WIDTH, DEPTH)]
    mask = torch.arange(70)[None] < 60
    found, wanted = (
        torch.autograd.grad(run(*operands, mask).square().sum(), operands)
        for run in (torch_module.build(made), lambda *x: simulate(made, *x))
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_all_heads_at_once_are_the_heads_one_by_one(prepared):
    """On a GPU heads of equal budget run together."""
    q, k, v = (torch.from_numpy(x) for x in planted(8, 2, 4, 130, WIDTH, DEPTH))
    pairs = [torch_module.SpectralAttention.order(x, x[0, :, ::9], None, 16) for x in (q, k)]
    cut = torch_module.SpectralAttention.cut
    queries, *of_keys = (cut(x, *pair, 16) for x, pair in ((q, pairs[0]), (k, pairs[1]), (v, pairs[1])))
    attend, counts = torch_module.SpectralAttention.attend, pairs[1][1]
    read = [x for each in of_keys for x in each]
    whole = attend(*queries, read, counts, 3)
    for head in range(4):
        alone = attend(*(x[:, head, None] for x in queries), [x[:, head, None] for x in read], counts, 3)
        torch.testing.assert_close(whole[:, head, None], alone)


def test_its_source_and_state_make_it_again(prepared):
    options = {"query_codebook": prepared.query_codebook[:, ::2], "budget": (2, 4, 1), "key_tile": 8}
    module = torch_module.build(replace(prepared, **options))
    names = {"torch": torch}
    exec(inspect.getsource(type(module)), names)
    again = eval(repr(module), names)
    again.load_state_dict(module.state_dict())
    operands = [torch.from_numpy(x) for x in planted(3, 2, HEADS, 150, WIDTH, DEPTH)]
    assert type(again) is not type(module)
    assert torch.equal(again(*operands), module(*operands))
