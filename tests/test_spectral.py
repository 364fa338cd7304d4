"""The spectrum of attention's walk against dense linear algebra, and its bounds against walks that are really taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from szilard.cost_model.errors import InputError
from szilard.cost_model.spectral import (
    attention_walk,
    davis_kahan,
    effective_rank,
    eigengap_clusters,
    excess_free_energy,
    mixing_steps,
    norm,
    reversible,
    sin_theta,
    spectrum,
    stationary,
)


def tokens(seed: int, count: int, clusters: int = 4, width: int = 8, apart: float = 0.8, spread: float = 0.3):
    """Queries and keys around the same `clusters` centres, and the cluster of each token."""
    random = np.random.default_rng(seed)
    centres = apart * random.standard_normal((clusters, width))
    member = np.arange(count) % clusters
    return *(centres[member] + spread * random.standard_normal((count, width)) for _ in range(2)), member


def dense(walk) -> np.ndarray:
    return walk.matmat(np.eye(walk.shape[0]))


def symmetric_laplacian(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eig(matrix.T)
    mass = np.abs(vectors[:, np.argmax(values.real)].real)
    root = np.sqrt(mass / mass.sum())
    scaled = root[:, None] * matrix / root
    return np.eye(len(matrix)) - (scaled + scaled.T) / 2


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(12, 60), st.integers(2, 5))
def test_the_eigenvalues_are_those_of_the_dense_matrix(seed, count, clusters):
    query, key, _ = tokens(seed, count, clusters, apart=0.7)
    walk = attention_walk(query, key)
    found = spectrum(walk, clusters)
    wanted = np.linalg.eigvalsh(symmetric_laplacian(dense(walk)))
    assert found.values == pytest.approx(wanted[: clusters + 1], abs=1e-7)
    assert found.largest == pytest.approx(wanted[-1], abs=1e-7)
    assert found.values[0] == pytest.approx(0, abs=1e-9)
    assert wanted[-1] <= 2


def test_the_stationary_mass_is_left_as_it_is():
    walk = attention_walk(*tokens(1, 50)[:2])
    mass = stationary(walk)
    assert walk.rmatvec(mass) == pytest.approx(mass, abs=1e-10)
    assert mass.sum() == pytest.approx(1)
    root = np.sqrt(mass)
    assert reversible(walk, mass).matvec(root) == pytest.approx(root, abs=1e-9)


def test_a_walk_of_weights_without_direction_has_the_spectrum_of_its_random_walk_laplacian():
    """Section 8.2 says so of every attention; for symmetric weights it holds."""
    random = np.random.default_rng(3)
    weights = random.uniform(0.1, 1, (30, 30))
    weights += weights.T
    walk = weights / weights.sum(1, keepdims=True)
    found = spectrum(aslinearoperator(walk), 5)
    assert found.values == pytest.approx(np.sort(1 - np.linalg.eigvals(walk).real)[:6], abs=1e-9)


def test_the_random_walk_laplacian_of_directed_attention_has_complex_eigenvalues():
    turn = np.roll(np.eye(6), 1, axis=1)
    assert np.abs(np.linalg.eigvals(0.9 * turn + 0.1 / 6).imag).max() > 0.5
    assert spectrum(aslinearoperator(0.9 * turn + 0.1 / 6), 2).values.dtype == np.float64


def test_planted_clusters_show_in_the_gap():
    """Six centres at right angles: exp(4) inside a cluster, 1 between two."""
    random = np.random.default_rng(0)
    query, key = (2 * np.eye(8)[np.arange(120) % 6] + 0.1 * random.standard_normal((120, 8)) for _ in range(2))
    walk = attention_walk(query, key)
    assert eigengap_clusters(spectrum(walk, 12)) == 6
    assert spectrum(walk, 6).quality > 0.3
    assert spectrum(walk, 5).quality < 0.1
    assert spectrum(attention_walk(*random.standard_normal((2, 120, 8))), 6).quality < 0.1


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.3))
def test_the_turn_of_the_leading_vectors_stays_within_its_bound(seed, size):
    """A walk mixed with another, whose bound is finite and holds; the bound without its 2 is that of the source."""
    first = attention_walk(*tokens(seed, 60)[:2])
    other = dense(attention_walk(*np.random.default_rng(seed).standard_normal((2, 60, 8))))
    mixed = aslinearoperator((1 - size) * dense(first) + size * other)
    before, after = spectrum(first, 4), spectrum(mixed, 4)
    change = aslinearoperator(dense(reversible(first, before.stationary)) - dense(reversible(mixed, after.stationary)))
    assert sin_theta(before, after) <= davis_kahan(before, norm(change)) + 1e-7
    assert sin_theta(before, before) == pytest.approx(0, abs=1e-6)
    assert sin_theta(before, after) > 0


def test_orthogonal_spans_are_as_far_apart_as_can_be():
    found = spectrum(attention_walk(*tokens(2, 40)[:2]), 3)
    turned = type(found)(
        found.values, np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0], 1.0, found.stationary
    )
    basis = np.linalg.qr(np.c_[found.vectors[:, :3], np.random.default_rng(1).standard_normal((40, 37))])[0]
    turned = type(found)(found.values, basis[:, 3:7], found.largest, found.stationary)
    assert sin_theta(found, turned) == pytest.approx(3**0.5)


@pytest.mark.parametrize("apart", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("distance", [0.25, 0.01])
def test_lazy_walks_without_direction_mix_within_the_bound(apart, distance):
    """The bound is for these; every start is tried."""
    query, key, _ = tokens(4, 48, apart=apart)
    walk = attention_walk(query, key)
    mass = stationary(walk)
    root = np.sqrt(mass)
    reversed_ = dense(reversible(walk, mass)) * root / root[:, None]
    lazy = aslinearoperator((np.eye(48) + reversed_) / 2)
    found = spectrum(walk, 3)
    steps = mixing_steps(lazy, mass, distance, np.arange(48), most=100_000)
    assert steps is not None
    assert steps <= found.mixing_bound(distance)
    assert mixing_steps(lazy, mass, distance, np.arange(48), most=steps - 1) is None


def test_the_first_modes_carry_what_is_left_of_the_heat():
    walk = attention_walk(*tokens(5, 40)[:2])
    found = spectrum(walk, 4)
    laplacian = symmetric_laplacian(dense(walk))
    values, vectors = np.linalg.eigh(laplacian)
    kernel = (vectors * np.exp(-3.0 * values)) @ vectors.T
    kept = (vectors[:, :4] * np.exp(-3.0 * values[:4])) @ vectors[:, :4].T
    assert np.linalg.norm(kernel - kept, 2) == pytest.approx(found.heat_truncation(3.0), rel=1e-6)


def test_the_effective_rank_of_matrices_whose_rank_is_known():
    random = np.random.default_rng(1)
    rotation = np.linalg.qr(random.standard_normal((40, 40)))[0]
    assert effective_rank(aslinearoperator(rotation)) == pytest.approx(40)
    line = np.outer(random.standard_normal(40), random.standard_normal(40))
    assert effective_rank(aslinearoperator(line)) == pytest.approx(1, abs=1e-6)


def test_dense_attention_has_the_least_free_energy_and_others_exceed_it_by_their_divergence():
    """F(P) = E[-q k] - H(P) of each row, in units of 1 / beta."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((5, 30))
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kept = np.where(random.random((5, 30)) < 0.4, rows, 0.0) + 1e-3 * rows
    kept /= kept.sum(1, keepdims=True)

    def free_energy(weights):
        return (-(weights * logits).sum(1) + (weights * np.log(weights)).sum(1)).mean()

    assert excess_free_energy(rows, kept) == pytest.approx(free_energy(kept) - free_energy(rows))
    assert excess_free_energy(rows, rows) == 0
    assert excess_free_energy(rows, kept) > 0


def test_clusters_that_hardly_meet_still_have_a_stationary_mass():
    query, key, _ = tokens(1, 60, clusters=3, apart=2.0)
    found = spectrum(attention_walk(query, key), 3)
    assert found.gap < 1e-4
    assert attention_walk(query, key).rmatvec(found.stationary) == pytest.approx(found.stationary, rel=1e-4)


def test_walks_without_a_way_back_and_wrong_sizes_are_refused():
    causal = np.tril(np.ones((20, 20))) / np.arange(1, 21)[:, None]
    with pytest.raises(InputError, match="never comes back"):
        spectrum(aslinearoperator(causal), 2)
    walk = attention_walk(*tokens(0, 10)[:2])
    for clusters in (0, 9):
        with pytest.raises(InputError, match="has 1 to 8 clusters"):
            spectrum(walk, clusters)
    with pytest.raises(InputError, match="as many queries as keys"):
        attention_walk(np.ones((4, 2)), np.ones((5, 2)))
