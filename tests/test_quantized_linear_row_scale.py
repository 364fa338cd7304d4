"""Tests of kernels/quantized_linear/row_scale.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.kernels.quantized_linear.row_scale import row_peaks, row_range


def codes(x, found):
    return np.rint(x / row_peaks(x, found) / found.step) + found.zero


@given(st.integers(1, 40), st.integers(1, 30), st.floats(-3, 3), st.integers(0, 2**31))
def test_codes_of_what_was_seen_fit_eight_bits(rows, features, shift, seed):
    x = np.random.default_rng(seed).normal(shift, 1, (rows, features)).astype(np.float32)
    found = row_range(x)
    assert 1 <= found.zero <= 254
    assert codes(x, found).min() >= 0
    assert codes(x, found).max() <= 255


def test_the_zero_point_follows_the_values():
    x = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    assert 110 < row_range(x).zero < 145
    assert row_range(x).two_sided
    assert row_range(np.abs(x)).zero == 1
    assert row_range(-np.abs(x)).zero == 254
    assert row_range(None).zero == 128


def test_behind_a_gelu_only_the_largest_value_of_a_row_is_searched():
    x = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32) * 3
    x = x * (x > 0) - 0.17 * (x < -0.5)
    found = row_range(x)
    assert not found.two_sided
    assert found.floor == pytest.approx(0.17 * float(found.below), rel=1e-4)
    assert codes(np.full((1, 3), -0.17, np.float32), found).min() >= 0


def test_rows_of_zeros_have_finite_codes():
    for seen in (None, np.zeros((3, 5), np.float32)):
        found = row_range(seen)
        assert np.array_equal(codes(np.zeros((2, 5), np.float32), found), np.full((2, 5), found.zero))
