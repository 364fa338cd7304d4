"""Theorem 3.24 with its constants, and Proposition 3.23: costs by hand, the structure that a weight was made with wins, laws of errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.weight_structure import (
    BLOCK,
    STRUCTURES,
    Structure,
    estimates,
    pareto_density,
    power_law,
    recommended,
    relative_joules,
    structure_joules,
)

CPU = load_device("cpu")


def by_name(found):
    return {each.structure.name: each for each in found}


def test_costs_are_those_of_the_theorem():
    flop, byte, cached = (CPU.values[key] for key in ("flop.float32", "byte.memory", "byte.cache"))
    wanted = {
        Structure("dense", 64, 32): (64 * 32, 64 * 32 * 4),
        Structure("low_rank", 64, 32, 5): ((64 + 32) * 5, (64 + 32) * 5 * 4),
        Structure("block_sparse", 64, 32, 3): (3 * BLOCK**2, 3 * BLOCK**2 * 4 + 3 * 4),
        Structure("two_of_four", 64, 32): (64 * 32 // 2, 64 * 32 // 2 * 4 + 64 * 32 // 2 / 4),
        Structure("unstructured", 64, 32, 100): (100, 100 * 4 + 100 * 4),
    }
    for structure, (products, moved) in wanted.items():
        assert structure.density == products / (64 * 32)
        loads = products if structure.name == "unstructured" else products / BLOCK
        memory = moved * byte + 7 * loads * 4 * cached
        assert structure_joules(structure, 7, CPU) == pytest.approx((2 * 7 * products * flop, memory))
    h200 = load_device("h200")
    half = structure_joules(Structure("dense", 64, 32), 7, h200, "float16")
    assert half[1] == pytest.approx(64 * 32 * 2 * (h200.values["byte.memory"] + 7 / BLOCK * h200.values["byte.cache"]))


def made(kind: str, draw, features: int = 96, columns: int = 80) -> np.ndarray:
    """A weight that one structure fits: rank 4, a fifth of its blocks, or a twentieth of its entries, and a little of everything."""
    full = draw.standard_normal((features, columns))
    if kind == "low_rank":
        found = draw.standard_normal((features, 4)) @ draw.standard_normal((4, columns))
    elif kind == "block_sparse":
        keep = draw.permutation(np.arange(30) < 6).reshape(6, 5)
        found = full * np.repeat(np.repeat(keep, BLOCK, 0), BLOCK, 1)
    else:
        found = full * (draw.random(full.shape) < 0.05)
    return found + 0.001 * draw.standard_normal(full.shape)


@pytest.mark.parametrize("kind", ["low_rank", "block_sparse", "unstructured"])
@pytest.mark.parametrize("rows", [1, 128])
def test_the_structure_that_a_weight_was_made_with_is_recommended(kind, rows):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((500, 96))
    best = recommended(estimates(made(kind, draw), x.T @ x), rows, CPU)
    assert best.structure.name == kind
    assert relative_joules(best.structure, rows, CPU) < 0.5


def test_a_random_weight_is_best_left_dense_or_thinned():
    """No structure of large pieces fits it: the smallest rank within the error costs more than the whole."""
    draw = np.random.default_rng(0)
    found = by_name(estimates(draw.standard_normal((96, 80)), None))
    assert relative_joules(found["low_rank"].structure, 128, CPU) > 1
    assert found["block_sparse"].structure.density > 0.9
    assert found["two_of_four"].error > 0.05
    assert found["unstructured"].structure.density < found["block_sparse"].structure.density


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 50), st.integers(1, 50), st.floats(0.001, 0.5), st.booleans())
def test_every_size_is_the_smallest_that_keeps_the_error(seed, features, columns, error, plain):
    draw = np.random.default_rng(seed)
    weight, x = (
        draw.standard_normal((features, columns)),
        draw.standard_normal((70, features)) * np.exp(draw.standard_normal(features)),
    )
    gram = None if plain else x.T @ x + 1e-6 * np.eye(features)
    found = by_name(estimates(weight, gram, error))
    assert tuple(found) == STRUCTURES
    norm = np.eye(features) if gram is None else gram
    total = np.trace(weight.T @ norm @ weight)
    values = np.linalg.svd(np.linalg.cholesky(norm + 1e-12 * np.eye(features)).T @ weight, compute_uv=False)
    rank = found["low_rank"].structure.size
    assert np.sum(values[rank:] ** 2) <= error * total * (1 + 1e-6)
    assert rank == 1 or np.sum(values[rank - 1 :] ** 2) > error * total * (1 - 1e-6)
    for name in ("low_rank", "block_sparse", "unstructured"):
        assert 0 <= found[name].error <= error * (1 + 1e-9)
    assert 0 <= found["two_of_four"].error < 1
    assert found["unstructured"].structure.size <= features * columns


def test_masks_of_wide_weights_are_judged_by_some_of_their_columns():
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((40, 900)) * (draw.random((40, 900)) < 0.3)
    found = by_name(estimates(weight, None, 0.01))
    kept = np.sort(np.abs(weight), axis=None)[::-1] ** 2
    exact = int(np.argmax(np.cumsum(kept) >= 0.99 * kept.sum())) + 1
    assert found["unstructured"].structure.size == pytest.approx(exact, rel=0.03)


def test_errors_fall_as_powers_of_the_density():
    densities = np.array([0.1, 0.2, 0.4, 0.8])
    assert power_law(densities, 0.03 * densities**-2.5) == pytest.approx((0.03, 2.5))
    assert power_law(densities[:1], densities[:1]) == (0.0, 0.0)


@given(st.floats(0.01, 10), st.floats(0.1, 5), st.floats(0.01, 10), st.floats(0.01, 10))
def test_at_the_pareto_density_an_error_saved_costs_its_price(c, eta, joules, price):
    density = pareto_density(c, eta, joules, price)
    slope = -c * eta * density ** (-eta - 1)
    assert density == 1 or slope == pytest.approx(-price * joules, rel=1e-6)
    if density == 1:
        assert -slope >= price * joules * (1 - 1e-9)
    with pytest.raises(ValueError, match="above zero"):
        pareto_density(0, eta, joules, price)


def test_a_weight_of_zeros_is_refused():
    with pytest.raises(InputError, match="no relative error"):
        estimates(np.zeros((4, 4)), None)
