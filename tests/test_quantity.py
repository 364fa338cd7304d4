"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.rewriter.quantity import change, number, percent, quantity


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123, "1.23 ms"), (0.0999996, "100 ms"), (0.9999, "1.00 s"), (0.0123, "12.3 ms"), (1234.5, "1.23 ks"), (0, "0 s"),
        (-0.5, "-500 ms"), (2.5e-20, "25.0 zs"), (2.5e-30, "2.5e-30 s"), (None, "unknown"), (math.nan, "unknown"), (math.inf, "unknown"),
    ],
)  # fmt: skip
def test_quantity(value, text):
    assert quantity(value, "s") == text


@given(st.floats(1e-14, 1e25))
def test_a_quantity_reads_back_within_its_digits(value):
    scale = dict(zip("fpnµm kMGTPEZY", range(-15, 27, 3), strict=True))
    digits, unit = quantity(value, "J").split(" ")
    assert math.isclose(float(digits) * 10.0 ** scale[unit[:-1] or " "], value, rel_tol=0.006)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(2, 1, "-50 %"), (1, 1.031, "+3.1 %"), (1, 1, "0 %"), (0, 1, "unknown"), (None, 1, "unknown"), (1, math.inf, "unknown")],
)
def test_change(before, after, text):
    assert change(before, after) == text


def test_percent():
    assert [percent(share) for share in (0.154, 0.97, 4.483, 0.0, None)] == ["15.4 %", "97.0 %", "448.3 %", "0.0 %", "unknown"]


def test_number():
    assert number(0.0123456) == "0.0123"
    assert number(None) == "unknown"
