"""Tests of kernels/spectral_attention/prepare.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.prepare import fit_budgets, prepare, simulate

from .sparse_attention import planted, relative


def test_codebooks_and_budget_follow_the_length():
    queries, keys, _ = (x[0] for x in planted(0, 1, 3, 200, 8, 8))
    prepared = prepare(queries, keys[:, :77], length=4096, scale=0.25)
    assert prepared.query_codebook.shape == prepared.key_codebook.shape == (3, 64, 8)
    assert (prepared.tile, prepared.budget, prepared.scale, prepared.heads) == (64, 8, 0.25, 3)
    assert prepare(queries, keys, length=100, scale=1.0).query_codebook.shape == (3, 2, 8)
    assert not np.array_equal(prepared.query_codebook, prepared.key_codebook)


def test_short_lengths_come_out_exactly_and_long_ones_nearly():
    queries, keys, _ = (x[0] for x in planted(0, 1, 3, 1500, 16, 8))
    prepared = prepare(queries, keys, length=2048, scale=0.25)
    for length, most in ((1, 1e-5), (64 * prepared.budget, 1e-5), (2000, 0.3)):
        q, k, v = map(torch.from_numpy, planted(length, 2, 3, length, 16, 8))
        dense = scaled_dot_product_attention(q, k, v, scale=0.25)
        error = float((simulate(prepared, q, k, v) - dense).norm() / dense.norm())
        assert error < most
        assert most < 0.1 or error > 1e-5


def test_keys_may_be_shared_and_have_a_tile_of_their_own():
    queries, keys, _ = (x[0] for x in planted(0, 1, 4, 500, 8, 8))
    prepared = prepare(queries, keys[:2], length=512, scale=0.25, key_tile=16, density=0.25)
    assert (prepared.heads, prepared.kv_heads, prepared.tile, prepared.key_tile) == (4, 2, 64, 16)
    assert (prepared.query_codebook.shape[1], prepared.key_codebook.shape[1], prepared.budgets) == (8, 32, (8,) * 4)


def test_each_head_gets_the_smallest_budget_within_tolerance():
    """Heads of clusters from tight to none at all: the first need fewer tiles than the last."""
    spreads, length, scale = (0.05, 0.35, 1.5), 400, 0.35
    calibration, samples = [], []
    for seed in (0, 1, 2):
        parts = [planted(seed, 1, 1, length, 8, 8, clusters=16, spread=spread) for spread in spreads]
        (samples if seed else calibration).append([np.concatenate(x, axis=1) for x in zip(*parts, strict=True)])
    prepared = prepare(calibration[0][0][0], calibration[0][1][0], length=length, scale=scale, tile=16)
    operands = [tuple(map(torch.from_numpy, sample)) for sample in samples]
    fitted = fit_budgets(prepared, operands, 0.05)

    def errors(budgets):
        made = replace(prepared, budget=tuple(budgets))
        found = [(simulate(made, *x), scaled_dot_product_attention(*x, scale=scale)) for x in operands]
        return [np.mean([relative(a[:, head], b[:, head]) for a, b in found]) for head in range(3)]

    assert fitted.budgets == tuple(sorted(fitted.budgets))
    assert 0 < fitted.budgets[0] < fitted.budgets[2] <= 25
    assert max(errors(fitted.budgets)) <= 0.05
    assert fitted.errors == pytest.approx(errors(fitted.budgets), rel=1e-4)
    assert min(errors([budget - 1 for budget in fitted.budgets])) > 0.05
    loose = fit_budgets(prepared, operands, 10.0)
    assert (loose.budgets, loose.errors) == ((0, 0, 0), pytest.approx(errors((0, 0, 0)), rel=1e-4))
    assert fit_budgets(prepared, operands, 0.0).budgets == (25, 25, 25)
    with pytest.raises(InputError, match="at least one sample"):
        fit_budgets(prepared, [], 0.1)


@pytest.mark.parametrize(
    ("keys", "options", "sentence"),
    [
        ((2, 9, 4), {}, r"not \[3, 9, 4\] and \[2, 9, 4\]"),
        ((3, 9, 5), {}, "of equal width"),
        ((3, 9, 4), {"key_tile": 0}, "a tile and a length"),
        ((3, 9, 4), {"density": 0.0}, "density in"),
        ((3, 9, 4), {"density": 1.5}, "density in"),
        ((3, 9, 4), {"tile": 0}, "a tile and a length"),
    ],
)
def test_refusals(keys, options, sentence):
    with pytest.raises(InputError, match=sentence):
        prepare(np.ones((3, 9, 4)), np.ones(keys), **{"length": 9, "scale": 1.0, **options})
