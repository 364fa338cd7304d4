"""Tests of kernels/spectral_attention/prepare.py."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.prepare import prepare, simulate

from .sparse_attention import planted


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


@pytest.mark.parametrize(
    ("keys", "options", "sentence"),
    [
        ((2, 9, 4), {}, r"not \[3, 9, 4\] and \[2, 9, 4\]"),
        ((3, 9, 5), {}, "equal heads and width"),
        ((3, 9, 4), {"density": 0.0}, "density in"),
        ((3, 9, 4), {"density": 1.5}, "density in"),
        ((3, 9, 4), {"tile": 0}, "a tile and a length"),
    ],
)
def test_refusals(keys, options, sentence):
    with pytest.raises(InputError, match=sentence):
        prepare(np.ones((3, 9, 4)), np.ones(keys), **{"length": 9, "scale": 1.0, **options})
