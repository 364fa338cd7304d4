"""Tests of kernels/spectral_attention/certificate.py: coverage over seeds, no bias over seeds, and what the edges' leverages sum to."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from szilard.kernels.spectral_attention.certificate import certified_attention, plan_of, residuals, tile_graph
from szilard.kernels.spectral_attention.prepare import prepare, simulate

from .sparse_attention import planted, relative

HEADS, WIDTH, DEPTH, LENGTH, SCALE = 2, 16, 8, 400, 0.2
SAMPLINGS = ("uniform", "resistance")


@cache
def case(spread=0.5, budget=3):
    queries, keys, _ = (x[0] for x in planted(0, 1, HEADS, LENGTH, WIDTH, DEPTH, spread=spread))
    prepared = replace(prepare(queries, keys, length=LENGTH, scale=SCALE, tile=16, key_tile=8), budget=budget)
    operands = tuple(torch.from_numpy(x) for x in planted(1, 1, HEADS, LENGTH, WIDTH, DEPTH, spread=spread))
    return prepared, operands, scaled_dot_product_attention(*operands, scale=SCALE)


def exactly(prepared, operands):
    """Numerator and denominator of dense attention over the plain form's, query by query in its tile."""
    plan = plan_of(prepared, *operands)
    found = residuals(plan, 16, "uniform", torch.Generator().manual_seed(0))
    query, key, value = (x.double() for x in operands)
    logits = SCALE * query @ key.mT
    dense, log_sum = logits.softmax(-1) @ value, logits.logsumexp(-1)

    def in_tiles(x):
        ordered = x.gather(2, plan.order[..., None].expand(-1, -1, -1, x.shape[-1]))
        return ordered.unflatten(2, (-1, prepared.tile))

    ratio = (in_tiles(log_sum[..., None]) - found.log_scale[..., None]).exp()
    return plan, found.output, in_tiles(dense) * ratio, ratio.squeeze(-1)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_numerator_and_denominator_have_no_bias(sampling):
    prepared, operands, _ = case()
    plan, output, numerator, denominator = exactly(prepared, operands)
    generator = torch.Generator().manual_seed(7)
    drawn = [residuals(plan, 64, sampling, generator) for _ in range(60)]
    for whole, found in (
        (numerator, torch.stack([output + each.numerator.mean(-2) for each in drawn])),
        (denominator, torch.stack([1 + each.denominator.mean(-1) for each in drawn])),
    ):
        plain = output if whole is numerator else torch.ones_like(denominator)
        assert relative(found.mean(0), whole) < 0.35 * relative(plain, whole)
        off = (found.mean(0) - whole) / (found.std(0) / 60**0.5 + 1e-6)
        assert abs(off.mean()) < 0.5  # about four standard errors: queries of a tile share their samples
        assert off.square().mean() < 1.5


@pytest.mark.parametrize(
    ("sampling", "samples", "spread", "budget"),
    [
        ("resistance", 64, 0.5, 3),
        ("resistance", 64, 1.0, 6),
        pytest.param("resistance", 256, 1.0, 6, marks=pytest.mark.long),
        pytest.param("uniform", 256, 0.5, 3, marks=pytest.mark.long),
    ],
)
def test_intervals_cover_as_often_as_they_say(sampling, samples, spread, budget):
    prepared, operands, dense = case(spread, budget)
    plan = plan_of(prepared, *operands)
    error = [relative(simulate(prepared, *operands)[:, head], dense[:, head]) for head in range(HEADS)]
    weights = (SCALE * operands[0] @ operands[1].mT).softmax(-1)
    order = plan.keys.rows.flatten(2, 3)[:, :, :LENGTH]
    near = torch.cdist(operands[1], order).argmin(-2)
    by_tile = weights.gather(-1, near[:, :, None].expand_as(weights)).unflatten(-1, (-1, 8)).sum(-1)
    exact = plan.exact.repeat_interleave(16, 2)[:, :, :LENGTH]
    ordered = by_tile.gather(2, plan.order[..., None].expand_as(by_tile))
    left_out = (ordered * ~exact).sum(-1).mean(-1)[0].numpy()

    covered, widths = [], []
    for seed in range(60):
        _, found = certified_attention(prepared, *operands, samples=samples, sampling=sampling, seed=seed)
        for interval, truth in ((found.error, np.array(error)), (found.left_out, left_out)):
            covered.append((interval.low[0] <= truth) & (truth <= interval.high[0]))
            widths.append(interval.high[0] - interval.low[0])
    covered = np.array(covered).reshape(60, 2, HEADS)
    assert covered.mean((0, 2)).min() > 0.88
    assert np.mean(widths) < 0.1


def test_unbiased_and_plain_outputs():
    prepared, operands, dense = case()
    plain, first = certified_attention(prepared, *operands, samples=16, unbiased=False)
    assert torch.allclose(plain, simulate(prepared, *operands), atol=1e-6)
    other, second = certified_attention(prepared, *operands, samples=16, unbiased=True)
    assert not torch.allclose(plain, other, atol=1e-3)
    np.testing.assert_array_equal(first.error.value, second.error.value)
    many, _ = certified_attention(prepared, *operands, samples=4096, unbiased=True)
    assert relative(many, dense) < 0.5 * relative(plain, dense)


def test_exact_attention_is_certified_as_such():
    prepared, operands, dense = case()
    whole = replace(prepared, budget=50)
    for sampling in SAMPLINGS:
        output, found = certified_attention(whole, *operands, samples=16, sampling=sampling, unbiased=True)
        assert relative(output, dense) < 1e-5
        assert found.error.high.max() == found.left_out.high.max() == 0.0


def test_masked_keys_are_never_drawn():
    prepared, (query, key, value), _ = case()
    mask = torch.arange(LENGTH)[None] < 290
    spoiled = [x.masked_fill(~mask[:, None, :, None], torch.nan) for x in (key, value)]
    output, found = certified_attention(prepared, query, *spoiled, mask, samples=64, unbiased=True)
    assert output.isfinite().all()
    dense = scaled_dot_product_attention(query, key, value, scale=SCALE, attn_mask=mask[:, None, None])
    plain = simulate(prepared, query, *spoiled, mask)
    truth = [relative(plain[:, head], dense[:, head]) for head in range(HEADS)]
    assert np.all(found.error.low[0] * 0.8 <= truth)
    assert np.all(truth <= found.error.high[0] * 1.25)


def test_leverages_of_a_graph_sum_to_its_nodes_less_one():
    prepared, operands, _ = case()
    weights, resistance = tile_graph(plan_of(prepared, *operands))
    assert weights.shape == resistance.shape == (1, HEADS, 25, 50)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, HEADS, 25, dtype=torch.float64))
    np.testing.assert_allclose((weights * resistance).sum((-1, -2)).numpy(), 25 + 50 - 1, rtol=1e-6)


def test_refusals():
    prepared, operands, _ = case()
    for samples in (8, 17):
        with pytest.raises(ValueError, match="multiple of 8 samples, from 16 on"):
            certified_attention(prepared, *operands, samples=samples)
