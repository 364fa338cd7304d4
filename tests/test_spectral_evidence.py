"""Evidence of sparse against dense walks; cases of kernels/spectral_attention/walk.py too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.sparse.linalg import aslinearoperator

from szilard.cost_model.spectral import attention_walk, spectrum
from szilard.cost_model.spectral_evidence import evidence, printed_advice, rows_of, sparsifier_error
from szilard.kernels.spectral_attention.prepare import prepare, simulate
from szilard.kernels.spectral_attention.walk import operator_walk

from .sparse_attention import planted

LENGTH, WIDTH = 300, 16


@pytest.fixture(scope="module")
def head():
    """Query, key [N, D] of one head and what calibration on other draws made of it: tiles of 16, three of them exact."""
    query, key, _ = planted(1, 1, 1, LENGTH, WIDTH, WIDTH, clusters=6)
    other = planted(2, 1, 1, 1024, WIDTH, WIDTH, clusters=6)
    made = prepare(other[0][0], other[1][0], length=LENGTH, scale=0.1, tile=16)
    return torch.from_numpy(query[0, 0]), torch.from_numpy(key[0, 0]), replace(made, budget=3)


def test_the_walk_gives_what_the_operator_gives_where_values_are_alike_within_tiles(head):
    """The identity as values gives the weights; where the keys of a tile are all alike, the first order adds nothing."""
    query, key, made = head
    key = key[torch.arange(LENGTH) // 100 * 100]
    walk, _ = operator_walk(query, key, made, 0)
    wanted = simulate(made, *(x[None, None] for x in (query, key, torch.eye(LENGTH))))[0, 0].numpy()
    mixed = rows_of(walk, np.arange(LENGTH))
    for group in range(3):
        chosen = slice(100 * group, 100 * group + 100)
        assert mixed[:, chosen].sum(1) == pytest.approx(wanted[:, chosen].sum(1), abs=1e-5)


def test_rows_sum_to_one_and_all_tiles_give_the_dense_walk(head):
    query, key, made = head
    walk, edges = operator_walk(query, key, made, 0)
    assert walk.matvec(np.ones(LENGTH)) == pytest.approx(np.ones(LENGTH))
    assert LENGTH * 3 * 12 < edges < LENGTH * (3 * 16 + 19)
    whole, all_edges = operator_walk(query, key, replace(made, budget=19), 0)
    dense = attention_walk((0.1 * query).numpy(), key.numpy())
    assert rows_of(whole, np.arange(LENGTH)) == pytest.approx(rows_of(dense, np.arange(LENGTH)), abs=1e-6)
    assert all_edges == LENGTH**2


def test_evidence_of_a_walk_against_itself_is_nothing(head):
    query, key, _ = head
    dense = attention_walk((0.1 * query).numpy(), key.numpy())
    found = evidence(dense, dense, LENGTH**2, 5)
    assert found.turn == pytest.approx(0, abs=1e-5)
    assert found.free_energy == 0
    assert found.error == pytest.approx((0, 0), abs=1e-9)
    assert found.density == 1
    assert found.ranks[0] == found.ranks[1]


def test_more_exact_tiles_are_nearer_to_dense_in_every_number(head):
    query, key, made = head
    dense = attention_walk((0.1 * query).numpy(), key.numpy())
    few, many = (evidence(dense, *operator_walk(query, key, replace(made, budget=budget), 0), 5) for budget in (1, 12))
    assert few.density < many.density < 1
    for number in ("turn", "free_energy"):
        assert getattr(few, number) > getattr(many, number)
    assert few.error[1] > many.error[1]
    assert few.least_edges < many.least_edges
    for found in (few, many):
        assert found.turn <= found.turn_bound
        assert found.error[0] <= found.error[1]
    assert set(few.as_dict()) > {"tokens", "clusters", "dense", "sparse", "edges", "density", "sin_theta"}


@pytest.mark.parametrize("kept", [0.2, 0.6])
def test_the_interval_holds_the_least_epsilon(kept):
    """The largest generalised eigenvalue of the change, on what is orthogonal to the constant vector."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((40, 40))
    whole = np.exp(logits)
    thinned = whole * np.where(random.random((40, 40)) < kept, 1.0, 0.1)
    walks = [aslinearoperator(each / each.sum(1, keepdims=True)) for each in (whole, thinned)]
    found = [spectrum(walk, 3) for walk in walks]
    graphs = []
    for walk, each in zip(walks, found, strict=True):
        flow = each.stationary[:, None] * walk.matmat(np.eye(40))
        flow = (flow + flow.T) / 2
        graphs.append(np.diag(flow.sum(1)) - flow)
    basis = np.linalg.qr(np.c_[np.ones(40), random.standard_normal((40, 39))])[0][:, 1:]
    first, second = (basis.T @ graph @ basis for graph in graphs)
    least = np.abs(eigh(second - first, first, eigvals_only=True)).max()
    low, high = sparsifier_error(*walks, *found)
    assert low <= least * (1 + 1e-6)
    assert least <= high * (1 + 1e-6)
    assert low > 0


def test_the_printed_decision_tree():
    assert [printed_advice(quality, 4096) for quality in (0.05, 0.2, 0.4)] == ["dense", "hybrid", "sparse"]
    assert printed_advice(0.4, 1000) == "dense"
