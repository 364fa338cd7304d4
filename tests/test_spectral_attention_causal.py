"""Causal spectral attention in plain torch: exact with all tiles, blind to the future, and each past key read once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.kernels.spectral_attention.causal import LAYOUT, Layout, causal_spectral_attention, key_tiles

from .causal_attention import SMALL, dense, operands, padded
from .sparse_attention import relative

SCALE = 0.4
LENGTHS = (1, 7, 8, 9, 25, 26, 64, 65, 100, 130)


def run(query, key, value, budget, layout=SMALL, key_mask=None):
    return causal_spectral_attention(query, key, value, scale=SCALE, budget=budget, layout=layout, key_mask=key_mask)


@pytest.mark.parametrize("length", LENGTHS)
def test_all_tiles_are_dense_attention(length):
    given_ = operands(length, 2, (4, 2), length, 6, 5)
    assert relative(run(*given_, SMALL.tiles(length)), dense(*given_, SCALE)) < 1e-6


@pytest.mark.parametrize("length", [1, 64, 65, 700])
def test_all_tiles_of_the_default_layout_are_dense_attention(length):
    given_ = operands(length, 1, (2, 1), length, 16, 16)
    assert relative(run(*given_, LAYOUT.tiles(length), LAYOUT), dense(*given_, SCALE)) < 1e-6


@pytest.mark.parametrize("length", [9, 41, 133])
def test_padding_changes_nothing_of_what_counts(length):
    """All tiles: dense attention with that mask. Few tiles: each row as if it had no padding at all."""
    given_, mask = operands(length, 3, (4, 2), length, 6, 5), padded(length, 3, length)
    counts = mask[:, None, :, None].expand(-1, 4, -1, 5)
    seen = mask[:, None, None] & torch.ones(length, length, dtype=torch.bool).tril()
    wanted = torch.nn.functional.scaled_dot_product_attention(*given_, attn_mask=seen, scale=SCALE, enable_gqa=True)
    full = run(*given_, SMALL.tiles(length), key_mask=mask)
    assert full.isfinite().all()
    torch.testing.assert_close(full[counts], wanted[counts], rtol=1e-4, atol=2e-5)
    few = run(*given_, 2, key_mask=mask)
    for row, there in enumerate(mask):
        alone = run(*(x[row : row + 1, :, there] for x in given_), 2)
        # The same tiles of queries but for the last one, whose mean padding enters.
        whole = int(there.sum()) // SMALL.query_tile * SMALL.query_tile
        torch.testing.assert_close(few[row, :, there][:, :whole], alone[0, :, :whole], rtol=1e-4, atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 500),
    st.sampled_from([SMALL, LAYOUT, Layout(8, 8, 8, 8), Layout(4, 1, 8, 0), Layout(8, 4, 32, 16)]),
)
def test_each_past_key_is_in_one_usable_tile(length, layout):
    """For every tile of queries, counted over the positions of a trained-like sorting: once before it, never from it on."""
    blocks = -(-length // layout.query_tile)
    keys = torch.randn((1, 1, blocks * layout.query_tile, 3), generator=torch.Generator().manual_seed(length))
    members, usable = key_tiles(keys, layout, length)[0, 0], layout.usable(length)
    assert usable.shape == (blocks, layout.tiles(length)) == (blocks, len(members))
    for block in range(blocks):
        counts = torch.bincount(members[usable[block]].flatten(), minlength=keys.shape[2])
        start = block * layout.query_tile
        assert (counts[:start] == 1).all()
        assert not counts[start:].any()
    forced = layout.forced(length)
    assert not (forced & ~usable).any()
    assert (forced.sum(1) <= 2).all()


@pytest.mark.parametrize("budget", [0, 1, 2, 5, 1000])
@pytest.mark.parametrize("position", [0, 7, 8, 40, 77, 98])
def test_no_output_depends_on_a_later_key_or_value(budget, position):
    """Bit for bit, also within a tile of queries. The queries stay: the choice of tiles is one for a tile of them."""
    query, key, value = operands(0, 1, (4, 2), 100, 6, 5)
    before = run(query, key, value, budget)
    key[:, :, position + 1 :] = 50 * torch.randn(key[:, :, position + 1 :].shape)
    value[:, :, position + 1 :] = 1e6
    assert torch.equal(run(query, key, value, budget)[:, :, : position + 1], before[:, :, : position + 1])


@pytest.mark.parametrize("position", [7, 39])
def test_no_output_depends_on_a_later_tile_of_queries(position):
    given_ = operands(0, 1, (4, 2), 100, 6, 5)
    before = run(*given_, 3)
    for each in given_:
        each[:, :, position + 1 :] = 7 * torch.randn(each[:, :, position + 1 :].shape)
    assert torch.equal(run(*given_, 3)[:, :, : position + 1], before[:, :, : position + 1])


@pytest.mark.parametrize("budget", [0, 3])
def test_a_constant_value_comes_back(budget):
    query, key, value = operands(3, 2, (4, 2), 90, 6, 5)
    value[:] = torch.arange(5.0)
    torch.testing.assert_close(run(query, key, value, budget), torch.arange(5.0).expand(2, 4, 90, 5), rtol=1e-5, atol=1e-5)


def test_more_tiles_leave_less_error():
    given_ = operands(1, 1, (4, 2), 400, 6, 5)
    errors = [relative(run(*given_, budget), dense(*given_, SCALE)) for budget in (0, 2, 8, 32, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.8
    assert errors[-1] < 0.02


def test_each_head_has_its_budget():
    given_ = operands(2, 1, (4, 2), 200, 6, 5)
    found = run(*given_, [2, 9, 0, 30])
    for head, budget in enumerate((2, 9, 0, 30)):
        torch.testing.assert_close(found[:, head], run(*given_, budget)[:, head])


def test_a_budget_of_none_is_the_second_order_by_hand():
    """The last query of 26 positions: eight tiles of its past by neighbours, none by content, all of them far; written out in float64."""
    layout = Layout(query_tile=8, key_tile=2, segment=16, sink=8)
    query, key, value = (x[0, 0].double() for x in operands(5, 1, (1, 1), 24, 3, 2))
    found = causal_spectral_attention(
        *(x[None, None].float() for x in (query, key, value)), scale=SCALE, budget=0, layout=layout
    )
    q, centre = SCALE * query[23], SCALE * query[16:].mean(0)
    logits, values = [q @ key[i] for i in range(16, 24)], [value[i] for i in range(16, 24)]
    tiles = [(key[i : i + 2], value[i : i + 2]) for i in range(0, 16, 2)]
    slope = sum((k - k.mean(0)).T @ v / 2 for k, v in tiles) / len(tiles)
    for k, v in tiles:
        variance = centre.square() @ k.var(0, correction=0)
        logits.append(q @ k.mean(0) + math.log(2) + torch.log1p(variance / 2))
        values.append(v.mean(0) + q @ slope)
    wanted = torch.stack(logits).softmax(0) @ torch.stack(values)
    torch.testing.assert_close(found[0, 0, 23].double(), wanted, rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_float32():
    given_ = [x.bfloat16() for x in operands(4, 1, (4, 2), 120, 6, 5)]
    found = run(*given_, 3)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, run(*(x.float() for x in given_), 3).bfloat16())


def test_sizes_that_do_not_divide_are_refused():
    for sizes in ((8, 3, 16, 8), (8, 2, 20, 8), (8, 2, 16, 4), (6, 2, 12, 6)):
        with pytest.raises(ValueError, match="divide"):
            Layout(*sizes)


def test_heads_and_budgets_that_do_not_fit_are_refused():
    query, key, value = operands(0, 1, (4, 2), 20, 6, 5)
    for wrong in ((query[:, :3], key, value), (query, key, value[:, :1]), (query, key[:, :, :9], value[:, :, :9])):
        with pytest.raises(ValueError, match="cannot attend"):
            run(*wrong, 2)
    for budget in ([1, 2], -1):
        with pytest.raises(ValueError, match="Budgets"):
            run(query, key, value, budget)
