"""Tests of kernels/quantized_linear/rounding.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.kernels.quantized_linear.rounding import compensated, nearest, output_error


def layer(seed, features, columns, rows):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(features, features)) / features**0.5
    x = (generator.normal(size=(rows, features)) @ mixing).astype(np.float32)
    weight = generator.normal(size=(features, columns)).astype(np.float32)
    scale = np.broadcast_to(np.abs(weight).max(axis=0) / 7, weight.shape).astype(np.float32)
    return x, weight, scale, np.zeros_like(scale)


def test_nearest_rounds_and_clips():
    weight = np.array([[0.26, -9.0, 2.5]], np.float32)
    codes = nearest(weight, np.full((1, 3), 0.5, np.float32), np.full((1, 3), 3.0), 0, 7)
    assert codes.tolist() == [[4, 0, 7]]


@pytest.mark.parametrize(("features", "columns", "rows"), [(37, 5, 400), (131, 17, 1000), (260, 3, 600)])
def test_compensation_lowers_the_output_error(features, columns, rows):
    x, weight, scale, zero = layer(1, features, columns, rows)
    gram = x.T @ x
    plain = nearest(weight, scale, zero, -7, 7) * scale
    better = compensated(weight, scale, zero, -7, 7, gram) * scale
    assert output_error(weight - better, gram) < 0.8 * output_error(weight - plain, gram)


def test_an_all_zero_gram_rounds_to_nearest():
    _, weight, scale, zero = layer(2, 23, 5, 3)
    codes = compensated(weight, scale, zero, -7, 7, np.zeros((23, 23), np.float32))
    assert np.array_equal(codes, nearest(weight, scale, zero, -7, 7))


def test_output_error_is_that_of_the_outputs():
    x, weight, _, _ = layer(3, 19, 4, 50)
    assert output_error(weight, x.T @ x) == pytest.approx(float(np.sum((x @ weight) ** 2)), rel=1e-4)
    assert output_error(weight, None) == pytest.approx(float(np.sum(weight**2)), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9), st.integers(1, 30))
def test_codes_stay_within_their_levels(seed, features, columns, rows):
    x, weight, scale, zero = layer(seed, features, columns, rows)
    codes = compensated(weight, scale, zero, -5, 6, x.T @ x)
    assert codes.min() >= -5
    assert codes.max() <= 6
