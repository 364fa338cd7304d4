"""Tests of kernels/spectral_attention/causal_prepare.py: the tolerance rule head by head, and what its budgets read."""

import pytest
import torch

from szilard.cost_model.errors import InputError
from szilard.kernels.spectral_attention.causal_prepare import (
    CausalPrepared,
    chosen,
    dense_attention,
    prepare,
    simulate,
)
from szilard.kernels.spectral_attention.prepare import relative_errors

from .causal_attention import SMALL, operands

GRID = (2, 4, 8, 16)


@pytest.fixture(scope="module")
def texts():
    found = [operands(seed, 1, (4, 2), 200, 6, 5) for seed in (0, 1)]
    for query, _, _ in found:
        query *= torch.tensor([0.2, 1.0, 3.0, 9.0])[:, None, None]
    return [tuple(each) for each in found]


def test_the_least_budget_within_tolerance_is_taken(texts):
    tolerance = 0.12
    prepared = prepare(texts, scale=0.4, tolerance=tolerance, layout=SMALL, grid=GRID)
    for head, budget in enumerate(prepared.budgets):
        for tried in GRID:
            one = CausalPrepared((tried,) * 4, 0.4, SMALL)
            error = sum(float(relative_errors(simulate(one, text), dense_attention(text, 0.4))[head]) for text in texts) / 2
            if budget is not None and tried == budget:
                assert error <= tolerance
                assert prepared.errors[head] == pytest.approx(error, rel=1e-4)
            if budget is None or tried < budget:
                assert error > tolerance
    assert len(set(prepared.budgets)) > 1


def test_a_head_that_misses_stays_dense():
    errors = {2: torch.tensor([0.3, 0.1, 0.5]), 4: torch.tensor([0.05, 0.09, 0.2])}
    prepared = chosen(errors, scale=1.0, tolerance=0.1)
    assert prepared.budgets == (4, 2, None)
    assert prepared.errors == pytest.approx((0.05, 0.1, 0.0))
    assert prepared.groups == {2: (1,), 4: (0,), None: (2,)}


@pytest.mark.parametrize("length", [1, 8, 9, 30, 100, 131])
def test_density_counts_the_pairs(length):
    """By brute force on the masks: rows of real queries, times the keys of their own tile up to them and of the tiles within budget."""
    prepared = CausalPrepared((2, None, 9), 1.0, SMALL)
    past = SMALL.usable(length).sum(1)
    pairs = 0
    for budget in prepared.budgets:
        for row in range(length):
            tiles = int(past[row // 8])
            pairs += row % 8 + 1 + 2 * (tiles if budget is None else min(budget, tiles))
    assert prepared.density(length) == pytest.approx(pairs / 3 / (length * (length + 1) / 2))


def test_all_dense_is_all_pairs():
    assert CausalPrepared((None, 1000), 1.0).density(777) == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "grid"), [(0, GRID), (1, ()), (1, (4, 2)), (1, (2, 2))])
def test_nothing_to_choose_from_is_refused(texts, count, grid):
    with pytest.raises(InputError, match="rising grid"):
        prepare(texts[:count], scale=0.4, grid=grid, layout=SMALL)
