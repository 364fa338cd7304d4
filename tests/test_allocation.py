"""The closed form of a bit allocation against brute force, its law, and the theorem that it generalises."""

import itertools
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from szilard.cost_model.allocation import bits_for, closed_form, plain, sensitivity

positive = st.floats(1e-3, 1e3)
layers = st.lists(st.tuples(positive, positive), min_size=1, max_size=6)


def loss(s, bits):
    return float(np.sum(np.asarray(s) * 4.0 ** -np.asarray(bits)))


@settings(max_examples=60, deadline=None)
@given(layers, st.floats(1, 8))
def test_is_the_formula_where_nothing_bounds_it(made, mean):
    s, c = np.array(made).T
    total = mean * c.sum()
    half = 0.5 * np.log2(s / c)
    np.testing.assert_allclose(closed_form(s, c, total), total / c.sum() + half - (c * half).sum() / c.sum(), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(positive, min_size=1, max_size=6), st.floats(1, 8))
def test_is_theorem_3_22_where_a_bit_costs_the_same_everywhere(s, mean):
    printed = mean + 0.5 * np.log2(np.array(s) / np.exp(np.mean(np.log(s))))
    np.testing.assert_allclose(plain(s, mean), printed, atol=1e-9)
    np.testing.assert_allclose(closed_form(s, [3.0] * len(s), 3.0 * mean * len(s)), printed, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(layers, st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
def test_no_other_allocation_within_the_bounds_is_better(made, share, seed):
    s, c = np.array(made).T
    low, high = 2.0, 8.0
    total = (low + share * (high - low)) * c.sum()
    bits = np.array(closed_form(s, c, total, lowest=low, highest=high))
    assert ((bits >= low - 1e-12) & (bits <= high + 1e-12)).all()
    assert c @ bits == pytest.approx(total, rel=1e-9)
    # Bits moved from one layer to another at equal cost, as far as the bounds let them.
    generator = np.random.default_rng(seed)
    for i, j in itertools.permutations(range(len(s)), 2):
        most = min((high - bits[i]) * c[i], (bits[j] - low) * c[j])
        moved = bits.copy()
        step = most * generator.uniform()
        moved[i] += step / c[i]
        moved[j] -= step / c[j]
        assert loss(s, moved) >= loss(s, bits) * (1 - 1e-9)


def test_is_what_a_numerical_optimiser_finds():
    s, c, total = [3.0, 200.0, 0.05, 7.0], [1.0, 4.0, 11.0, 2.0], 90.0
    bits = closed_form(s, c, total, lowest=2, highest=8)
    found = minimize(
        lambda b: np.log(loss(s, b)),
        np.full(4, 5.0),
        bounds=[(2, 8)] * 4,
        constraints={"type": "eq", "fun": lambda b: np.dot(c, b) - total},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    np.testing.assert_allclose(bits, found.x, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=4), st.integers(3, 6))
def test_is_the_best_of_all_whole_bits_where_it_is_whole(exponents, mean):
    """Equal costs and sensitivities 4^k with the mean of k whole: the closed form is whole, and brute force finds nothing better."""
    exponents = [*exponents, -sum(exponents)]
    s = [4.0**k for k in exponents]
    bits = plain(s, mean)
    assert bits == pytest.approx([mean + k for k in exponents])
    low, high = int(min(bits)) - 1, int(max(bits)) + 1
    grid = itertools.islice(itertools.product(range(low, high + 1), repeat=len(s)), 20000)
    assert loss(s, bits) <= min((loss(s, b) for b in grid if sum(b) == mean * len(s)), default=inf) * (1 + 1e-9)


def test_totals_beyond_the_bounds_give_the_bounds():
    assert closed_form([1, 2], [1, 3], 1e9, lowest=2, highest=8) == (8, 8)
    assert closed_form([1, 2], [1, 3], 0.0, lowest=2, highest=8) == (2, 2)
    assert closed_form([5.0], [2.0], 12.0) == (6.0,)


def test_each_layer_may_have_bounds_of_its_own():
    bits = closed_form([1.0, 1.0], [1.0, 1.0], 12.0, lowest=[2, 8], highest=[8, 32])
    assert bits == (4.0, 8.0)


def test_a_dearer_layer_gets_fewer_bits_and_one_bit_is_a_factor_of_four():
    cheap, dear = closed_form([1.0, 1.0], [1.0, 16.0], 100.0)
    assert cheap - dear == pytest.approx(2.0)
    assert sensitivity(0.5, 3) == 32.0
    assert bits_for(32.0, 0.5) == 3.0


@pytest.mark.parametrize(
    ("s", "c"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0]), ([inf], [1.0]), ([1.0], [float("nan")])]
)
def test_refuses_what_is_no_allocation(s, c):
    with pytest.raises(ValueError, match="allocation"):
        closed_form(s, c, 1.0)
