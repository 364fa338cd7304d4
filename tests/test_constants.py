"""Numbers and constants that finders read through ops."""

import math

import numpy as np
import pytest

from szilard.passes.constants import Stored, constant_below, number, stored

from .nets import NetBuilder


def test_numbers_through_arithmetic_fills_and_views():
    net = NetBuilder()
    four, half = net.number(4.0), net.number(0.5)
    root = net.op("sqrt", four)
    cases = {
        root: 2.0,
        net.op("rsqrt", four): 0.5,
        net.op("div", half, root): 0.25,
        net.op("pow", root, four): 16.0,
        net.op("sub", half, root): -1.5,
        net.op("neg", net.op("reciprocal", root)): -0.5,
        net.op("cast", root, to="float32"): 2.0,
        net.expand(root, 3, 5): 2.0,
        net.op("full", shape=(3, 5), value=-math.inf): -math.inf,
        net.op("sqrt", net.number(-1.0)): None,
        net.op("div", half, net.number(0.0)): None,
        net.op("exp", four): None,
        net.input("x", 1): None,
        net.weight("w", 2): None,
    }
    done = net.net(*net.ops)
    assert {name: number(done, name) for name in cases} == cases


@pytest.mark.parametrize(("index", "expected"), [(3, 8.0), (-1, 8.0), (1, None)])
def test_only_the_size_of_the_last_axis_is_a_number(index, expected):
    net = NetBuilder()
    size = net.op("shape", net.input("x", 2, 3, 7, 8), shape=(4,), dtype="int64")
    picked = net.op("gather", size, net.constant("i", np.asarray(index)), shape=(), axis=0)
    cut = net.op("slice", size, shape=(1,), starts=[index], ends=[2**31])
    done = net.net(picked, cut)
    assert number(done, picked) == expected
    assert number(done, cut) == expected


def test_a_chain_that_is_too_long_is_no_number():
    net = NetBuilder()
    value = net.number(1.0)
    for _ in range(100):
        value = net.op("neg", value)
    assert number(net.net(value), value) is None


def test_stored_counts_transposes_and_lists_ops_in_order():
    net = NetBuilder()
    w = net.weight("w", 5, 3)
    once = net.transpose(w, 1, 0)
    cast = net.op("cast", once, to="float32")
    twice = net.transpose(cast, 1, 0)
    picked = net.op("gather", w, net.input("i", 2, dtype="int64"), shape=(2, 3), axis=0)
    done = net.net(twice, picked)
    assert stored(done, w) == Stored(w, False, ())
    assert stored(done, cast) == Stored(w, True, (once, cast))
    assert stored(done, twice) == Stored(w, False, (once, cast, twice))
    assert stored(done, "i") is None
    assert "gather" in stored(done, picked)
    assert not constant_below(done, picked)
    assert constant_below(done, twice)
