"""Tests of kernels/spectral_attention/causal_torch_module.py: the module that is emitted gives the reference's numbers with torch alone."""

import inspect
from dataclasses import replace

import pytest
import torch

from szilard.kernels.spectral_attention import causal_torch_module
from szilard.kernels.spectral_attention.causal import LAYOUT, Layout
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared, prepare, simulate

from .causal_attention import SMALL, dense, operands, padded
from .sparse_attention import relative

PREPARED = CausalPrepared((4, None, 2, 9, 4, 0), 0.4, SMALL)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 17, 25, 40, 41, 64, 65, 100, 133, 300])
def test_equals_the_reference(length):
    given = operands(length, 2, (6, 2), length, 12, 7)
    found = causal_torch_module.build(PREPARED)(*given)
    torch.testing.assert_close(found, simulate(PREPARED, given), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("length", [9, 41, 133, 300])
def test_padding_is_moved_out_of_the_way(length):
    given, mask = operands(length, 3, (6, 2), length, 12, 7), padded(length, 3, length)
    found, wanted = causal_torch_module.build(PREPARED)(*given, mask), simulate(PREPARED, given, mask)
    counts = mask[:, None, :, None].expand_as(found)
    assert found.isfinite().all()
    torch.testing.assert_close(found[counts], wanted[counts], rtol=1e-4, atol=2e-5)
    same = causal_torch_module.build(PREPARED)(*given, mask[:1])
    torch.testing.assert_close(same[:1], found[:1])


@pytest.mark.parametrize("layout", [LAYOUT, Layout(8, 8, 8, 8), Layout(4, 1, 8, 0), Layout(8, 4, 32, 16)])
@pytest.mark.parametrize("length", [200, 411])
def test_equals_the_reference_in_every_layout(layout, length):
    prepared = CausalPrepared((3, 12), 0.4, layout)
    given = operands(length, 1, (2, 1), length, 12, 7)
    torch.testing.assert_close(causal_torch_module.build(prepared)(*given), simulate(prepared, given), rtol=1e-4, atol=2e-5)


def test_short_lengths_are_dense_where_that_is_asked_for():
    prepared = replace(PREPARED, dense_below=100)
    module = causal_torch_module.build(prepared)
    short, long = (operands(length, 2, (6, 2), length, 12, 7) for length in (99, 100))
    assert relative(module(*short), dense(*short, 0.4)) < 1e-6 < relative(module(*long), dense(*long, 0.4))
    mask = padded(0, 2, 99)
    seen = mask[:, None, None] & torch.ones(99, 99, dtype=torch.bool).tril()
    wanted = torch.nn.functional.scaled_dot_product_attention(*short, attn_mask=seen, scale=0.4, enable_gqa=True)
    counts = mask[:, None, :, None].expand_as(wanted)
    torch.testing.assert_close(module(*short, mask)[counts], wanted[counts], rtol=1e-4, atol=2e-5)
    again = eval(repr(module), {"CausalSpectralAttention": causal_torch_module.CausalSpectralAttention})
    assert again.dense_below == 100


def test_operands_may_be_views():
    """As models give them: [B, N, H, D] with two axes exchanged."""
    given = operands(1, 1, (6, 2), 128, 12, 7)
    views = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in given]
    module = causal_torch_module.build(PREPARED)
    torch.testing.assert_close(module(*views), module(*given))


@pytest.mark.parametrize("budgets", [(None,) * 4, (1000,) * 4])
def test_all_tiles_are_dense_attention(budgets):
    given = operands(0, 1, (4, 2), 150, 12, 7)
    assert relative(causal_torch_module.build(CausalPrepared(budgets, 0.4, SMALL))(*given), dense(*given, 0.4)) < 1e-6


@pytest.mark.parametrize("position", [7, 40, 77, 98])
def test_no_output_depends_on_a_later_key_or_value(position):
    module = causal_torch_module.build(PREPARED)
    query, key, value = operands(0, 1, (6, 2), 100, 12, 7)
    before = module(query, key, value)
    key[:, :, position + 1 :] = 50 * torch.randn(key[:, :, position + 1 :].shape)
    value[:, :, position + 1 :] = 1e6
    torch.testing.assert_close(module(query, key, value)[:, :, : position + 1], before[:, :, : position + 1])


def test_its_source_makes_it_again():
    module = causal_torch_module.build(PREPARED)
    names = {"torch": torch}
    exec(inspect.getsource(type(module)), names)
    again = eval(repr(module), names)
    given = operands(3, 2, (6, 2), 150, 12, 7)
    assert type(again) is not type(module)
    assert not module.state_dict()
    assert torch.equal(again(*given), module(*given))


def test_half_precision_comes_back():
    given = [x.half() for x in operands(3, 1, (6, 2), 150, 12, 7)]
    found = causal_torch_module.build(PREPARED)(*given)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, simulate(PREPARED, given), rtol=2e-3, atol=2e-3)


def test_budgets_are_chosen_by_it_as_by_the_reference():
    texts = [tuple(operands(seed, 1, (4, 2), 150, 6, 5)) for seed in (0, 1)]
    for query, _, _ in texts:
        query *= torch.tensor([0.2, 1.0, 3.0, 9.0])[:, None, None]
    by_module, by_reference = (
        prepare(texts, scale=0.4, tolerance=0.2, layout=SMALL, grid=(2, 4, 8, 16), run=run)
        for run in (causal_torch_module.run, None)
    )
    assert by_module.budgets == by_reference.budgets
    assert by_module.errors == pytest.approx(by_reference.errors, rel=1e-3)
    assert len(set(by_module.budgets)) > 1
