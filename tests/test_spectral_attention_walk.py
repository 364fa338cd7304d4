"""The walk of causal spectral attention, and the undirected graph that gives a causal walk a spectrum (evidence of it too)."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.sparse.linalg import aslinearoperator

from szilard.cost_model.spectral import attention_walk, spectrum, stationary, undirected
from szilard.cost_model.spectral_evidence import DISTANCE, evidence, rows_of
from szilard.kernels.spectral_attention.causal import causal_spectral_attention
from szilard.kernels.spectral_attention.causal_prepare import CausalPrepared
from szilard.kernels.spectral_attention.walk import causal_walk

from .causal_attention import SMALL, operands

LENGTH, SCALE = 100, 0.4


def head(budget):
    query, key, _ = operands(3, 1, (1, 1), LENGTH, 8, 8)
    return query[0, 0], key[0, 0], CausalPrepared((budget,), SCALE, SMALL)


def dense():
    query, key, _ = head(1)
    return attention_walk((SCALE * query).numpy(), key.numpy(), causal=True)


def test_the_causal_walk_gives_what_the_operator_gives_where_tiles_hold_equal_keys():
    """With the identity as values; keys that are equal two by two stay together in tiles of two, and the first order adds nothing."""
    query, key, made = head(3)
    key = key.repeat_interleave(2, 0)[:LENGTH]
    walk, _ = causal_walk(query, key, made, 0)
    operands_ = (x[None, None] for x in (query, key, torch.eye(LENGTH)))
    wanted = causal_spectral_attention(*operands_, scale=SCALE, budget=3, layout=SMALL)[0, 0].numpy()
    assert rows_of(walk, np.arange(LENGTH)) == pytest.approx(wanted, abs=1e-6)


def test_rows_sum_to_one_see_no_later_key_and_all_tiles_give_the_dense_walk():
    walk, edges = causal_walk(*head(2), 0)
    found = rows_of(walk, np.arange(LENGTH))
    assert found.sum(1) == pytest.approx(np.ones(LENGTH), abs=1e-6)
    assert not np.triu(found, 1).any()
    whole, all_edges = causal_walk(*head(SMALL.tiles(LENGTH)), 0)
    assert rows_of(whole, np.arange(LENGTH)) == pytest.approx(rows_of(dense(), np.arange(LENGTH)), abs=1e-6)
    assert all_edges == LENGTH * (LENGTH + 1) / 2
    assert edges < all_edges
    starts = np.arange(0, LENGTH, 8)
    tiles = starts // 2
    exact = np.minimum(2, tiles)
    rows = np.minimum(8, LENGTH - starts)
    assert edges == (rows * (rows + 1) / 2 + rows * (2 * exact + tiles - exact)).sum()


def test_a_dense_head_has_no_sparse_walk():
    with pytest.raises(ValueError, match="Head 0 stays dense"):
        causal_walk(*head(None), 0)


def test_the_undirected_walk_is_reversible_and_has_the_spectrum_of_its_graph():
    weights = rows_of(dense(), np.arange(LENGTH))
    graph = (weights + weights.T) / 2
    degree = graph.sum(1)
    walk, mass = undirected(dense())
    assert rows_of(walk, np.arange(LENGTH)) == pytest.approx(graph / degree[:, None])
    assert walk.matvec(np.ones(LENGTH)) == pytest.approx(np.ones(LENGTH))
    assert stationary(walk) == pytest.approx(degree / LENGTH)
    assert mass == pytest.approx(degree / LENGTH)
    root = np.sqrt(degree)
    wanted = eigh(np.eye(LENGTH) - graph / root / root[:, None], eigvals_only=True)
    for found in (spectrum(walk, 5), spectrum(walk, 5, mass)):
        assert found.values == pytest.approx(wanted[:6], abs=1e-9)


def test_evidence_of_a_causal_head():
    few, many = (evidence(dense(), *causal_walk(*head(budget), 0), 5, causal=True) for budget in (2, 30))
    same = evidence(dense(), dense(), LENGTH * (LENGTH + 1) // 2, 5, causal=True)
    assert (same.density, same.free_energy) == (1, 0)
    assert same.turn == pytest.approx(0, abs=1e-5)
    assert few.density < many.density < 1
    assert few.free_energy > many.free_energy > 0
    assert few.error[1] > many.error[1]
    for found in (few, many):
        assert found.turn <= found.turn_bound
        assert found.error[0] <= found.error[1]
        sides = (found.as_dict()[side] for side in ("dense", "sparse"))
        assert all(0 < side["mixing_steps"] <= side["mixing_steps_at_most"] for side in sides)
        assert all(2 <= side["clusters_shown"] <= 5 for side in sides)


def test_a_walk_that_alternates_mixes_when_it_is_lazy():
    """Tokens of either half look at the other one alone: the walk itself never mixes."""
    weights = np.zeros((20, 20))
    weights[:10, 10:] = weights[10:, :10] = 0.1
    walk = aslinearoperator(weights)
    found = evidence(walk, walk, 200, 2)
    assert found.dense.largest == pytest.approx(2)
    assert 0 < found.steps[0] <= found.dense.mixing_bound(DISTANCE)
