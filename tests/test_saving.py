"""The interval of a saving: joint draws make differences sure where the prices alone are not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model import saving
from szilard.cost_model.counts import Counts
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.price import price_counts
from szilard.cost_model.saving import joules_interval, saving_interval, seconds_interval
from szilard.cost_model.tile_reuse import Product

CPU = load_device("cpu")


def cost(flops=1e9, size=1e6, seconds=None, dtype="float32", kind="matmul", device=CPU, launches=1):
    return price_counts(Counts({dtype: flops}, size, size, (), launches=launches), device, kind, seconds)


@given(st.floats(1e3, 1e12), st.floats(1, 1e9), st.sampled_from([None, 1e-3]), st.sampled_from(device_names()))
@settings(max_examples=40, deadline=None)
def test_work_saves_nothing_against_itself(flops, size, seconds, name):
    device = load_device(name)
    one = cost(flops, size, seconds, device=device)
    assert saving_interval(one, one, device) == (0.0, 0.0)


@given(st.floats(1e6, 1e11), st.floats(1e3, 1e8), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_less_of_everything_surely_saves_although_each_price_is_uncertain(flops, size, share):
    before, after = cost(flops, size), cost(share * flops, share * size)
    low, high = saving_interval(before, after, CPU)
    assert 0 < low <= before.joules - after.joules <= high
    # Apart, the prices could be anywhere within a factor of two or more: their intervals overlap.
    assert high / low > 1.5


def test_swapping_the_sides_swaps_the_interval():
    before, after = cost(1e9, seconds=3e-3), cost(4e8, seconds=2e-3)
    low, high = saving_interval(before, after, CPU)
    assert saving_interval(after, before, CPU) == pytest.approx((-high, -low))


def test_a_trade_of_bytes_for_flops_is_not_sure():
    before, after = cost(1e7, 1e7, seconds=1e-3), cost(1e7 + 9e7, 1e5, seconds=1e-3)
    low, high = saving_interval(before, after, CPU)
    assert low < 0 < high


def test_exact_coefficients_leave_one_number():
    exact = replace(CPU, coefficients={k: replace(c, low=c.value, high=c.value) for k, c in CPU.coefficients.items()})
    before, after = cost(1e9, 1e6), cost(3e8, 2e6, kind="exp")
    low, high = saving_interval(before, after, exact)
    assert low == pytest.approx(high)
    assert low == pytest.approx(before.joules - after.joules)


def test_an_uncertain_rate_widens_the_interval_only_of_roofline_seconds():
    idle = CPU.with_values({"flop.float32": 1e-18, "byte.memory": 1e-18, "launch": 1e-12})
    roofline = saving_interval(cost(2e9, device=idle), cost(1e9, device=idle), idle)
    seconds = [cost(f, device=idle).seconds for f in (2e9, 1e9)]
    given_seconds = saving_interval(
        cost(2e9, seconds=seconds[0], device=idle), cost(1e9, seconds=seconds[1], device=idle), idle
    )
    assert roofline[1] / roofline[0] > given_seconds[1] / given_seconds[0]


def test_the_same_seed_gives_the_same_interval_and_another_one_a_near_one():
    before, after = cost(1e9), cost(5e8, dtype="int8")
    assert saving_interval(before, after, CPU) == saving_interval(before, after, CPU)
    other = saving_interval(before, after, CPU, seed=7)
    assert other != saving_interval(before, after, CPU)
    assert other == pytest.approx(saving_interval(before, after, CPU), rel=0.15)


def test_quantiles_are_those_of_the_coefficient_where_only_one_matters():
    counts = Counts({"float32": 1e9}, 0, 0, (), launches=0)
    before, after = price_counts(counts, CPU, "matmul", 0.0), price_counts(Counts(), CPU, "matmul", 0.0)
    low, high = saving_interval(before, after, CPU)
    found = CPU.coefficients["flop.float32"]
    assert low == pytest.approx(1e9 * found.low, rel=0.03)
    assert high == pytest.approx(1e9 * found.high, rel=0.03)


def test_roofline_launches_are_slower_when_each_is():
    names = ("launch_seconds",)
    coefficients = {k: c if k in names else replace(c, low=c.value, high=c.value) for k, c in CPU.coefficients.items()}
    device = replace(CPU, coefficients=coefficients)
    before, after = price_counts(Counts(launches=1000), device, "exp"), price_counts(Counts(), device, "exp")
    low, high = saving_interval(before, after, device)
    found, fixed = device.coefficients["launch_seconds"], 1000 * device.value("launch")
    assert low == pytest.approx(fixed + 1000 * device.value("static") * found.low, rel=0.05)
    assert high == pytest.approx(fixed + 1000 * device.value("static") * found.high, rel=0.05)


@pytest.mark.parametrize(
    ("key", "work"),
    [
        ("byte.memory", {"size": 1e9, "cache": 1e9}),
        ("byte.cache", {"size": 0.0, "cache": 1e9}),
        ("link", {"size": 0.0, "link": 1e9}),
    ],
)
def test_every_level_of_traffic_is_drawn(key, work):
    """Bytes past the last cache, between cache and core, and over a link: each moves the interval by its own coefficient."""
    levels = {"memory": work["size"], "cache": work.get("cache", 0.0), "link": work.get("link", 0.0)}
    before = replace(price_counts(Counts(), CPU, "exp", 0.0), bytes_by_level=levels)
    after = price_counts(Counts(), CPU, "exp", 0.0)
    exact = {k: c if k == key else replace(c, low=c.value, high=c.value) for k, c in CPU.coefficients.items()}
    device = replace(CPU, coefficients=exact)
    found = CPU.coefficients[key]
    rest = sum(size * CPU.value(k) for k, size in (("byte.cache", levels["cache"]), ("link", levels["link"])) if k != key)
    low, high = saving_interval(before, after, device)
    assert low == pytest.approx(rest + 1e9 * found.low, rel=0.03)
    assert high == pytest.approx(rest + 1e9 * found.high, rel=0.03)


def test_operands_read_again_widen_the_interval_of_the_price_of_a_cache_byte():
    exact = {k: c if k == "byte.cache" else replace(c, low=c.value, high=c.value) for k, c in CPU.coefficients.items()}
    device = replace(CPU, coefficients=exact)
    once = Counts({"float32.tensor": 2.0 * 2048**3}, 2e7, 1e7)
    again = replace(once, nests=(Product(1, 2048, 2048, 2048, 4.0, 4.0, 4.0),))
    nothing = price_counts(Counts(), device, "matmul", 0.0)
    intervals = [saving_interval(price_counts(counts, device, "matmul", 0.1), nothing, device) for counts in (once, again)]
    narrow, wide = (high - low for low, high in intervals)
    assert wide > 5 * narrow > 0


def test_seconds_of_a_measured_kernel_grow_with_their_coefficient():
    slow = replace(CPU.coefficients["launch_seconds"], value=1e-3, low=5e-4, high=4e-3)
    device = replace(CPU, coefficients={**CPU.coefficients, "time.onnxruntime.matmul.call": slow})
    after = price_counts(Counts(), device, "exp", 0.0)
    before = replace(after, seconds_by_bound={"time.onnxruntime.matmul.call": 1.0})
    static = device.coefficients["static"]
    sure = replace(device, coefficients={**device.coefficients, "static": replace(static, low=static.value, high=static.value)})
    low, high = saving_interval(before, after, sure)
    assert low == pytest.approx(0.5 * static.value, rel=0.03)
    assert high == pytest.approx(4 * static.value, rel=0.03)


def test_intervals_of_a_price_are_those_of_the_coefficients_that_set_it():
    launches = price_counts(Counts(launches=1000), CPU, "add")
    law, static = (CPU.coefficients[key] for key in ("launch_seconds", "static"))
    low, high = seconds_interval(launches, CPU)
    assert low == pytest.approx(1000 * law.low, rel=0.05)
    assert high == pytest.approx(1000 * law.high, rel=0.05)
    idle = price_counts(Counts(), CPU, "add", 2.0)
    assert seconds_interval(idle, CPU) == pytest.approx((2.0, 2.0))
    assert joules_interval(idle, CPU) == pytest.approx((2 * static.low, 2 * static.high), rel=0.05)


def test_a_coefficient_that_is_zero_adds_no_width():
    key = "time.onnxruntime.neg.call"
    zero = replace(CPU, coefficients={**CPU.coefficients, key: replace(CPU.coefficients["launch"], value=0.0, low=0.0)})
    one = price_counts(Counts(), zero, "neg", {key: 0.0}, "table")
    assert seconds_interval(one, zero) == (0.0, 0.0)
    assert joules_interval(one, zero) == (0.0, 0.0)


def ends(values):
    """(value, low, high), widened twice: low <= value <= high, low may be zero."""
    value, *shares = values
    lows, highs = sorted(shares[:2]), sorted(shares[2:])
    narrow = (value, value * lows[1], value * highs[0])
    return narrow, (value, value * lows[0], value * highs[1])


SHARES = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-9, 1.0))
INTERVALS = st.tuples(st.floats(1e-13, 1e-3), SHARES, SHARES, st.floats(1.0, 1e3), st.floats(1.0, 1e3)).map(ends)


def with_interval(key, interval):
    value, low, high = interval
    exact = {k: replace(c, low=c.value, high=c.value) for k, c in CPU.coefficients.items()}
    return replace(CPU, coefficients={**exact, key: replace(CPU.coefficients[key], value=value, low=low, high=high)})


@given(st.sampled_from(["flop.float32", "byte.memory", "launch", "launch_seconds"]), INTERVALS)
@settings(max_examples=60, deadline=None)
def test_widening_an_interval_never_narrows_the_result(key, intervals):
    narrow, wide = (with_interval(key, interval) for interval in intervals)
    before, after = cost(1e9, 1e8, device=narrow, launches=100), cost(4e8, 3e8, device=narrow, launches=20)
    for question in (
        lambda device: joules_interval(before, device),
        lambda device: seconds_interval(before, device),
        lambda device: saving_interval(before, after, device),
    ):
        (low, high), (least, most) = question(narrow), question(wide)
        slack = 1e-9 * max(abs(low), abs(high))
        assert least <= low + slack
        assert high <= most + slack


@given(st.lists(INTERVALS, min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_widening_every_interval_never_narrows_a_sum_of_them(intervals):
    keys = ("flop.float32", "byte.memory", "byte.cache", "launch")
    drawn = [
        {key: with_interval(key, pair[side]).coefficients[key] for key, pair in zip(keys, intervals, strict=True)}
        for side in (0, 1)
    ]
    narrow, wide = (replace(CPU, coefficients={**CPU.coefficients, **changed}) for changed in drawn)
    one = price_counts(Counts({"float32": 1e9}, 1e8, 1e8, (), launches=100), narrow, "matmul", 0.0)
    (low, high), (least, most) = joules_interval(one, narrow), joules_interval(one, wide)
    assert most - least >= 0.98 * (high - low)


def test_a_coefficient_that_may_be_nothing_is_as_uncertain_as_its_interval_says():
    unsure = with_interval("launch", (1e-6, 0.0, 4e-6))
    launches = price_counts(Counts(launches=1000), unsure, "add", 0.0)
    assert joules_interval(launches, unsure) == pytest.approx((0.0, 4e-3), abs=3e-4)
    upwards = with_interval("launch", (0.0, 0.0, 4e-6))
    nothing = price_counts(Counts(launches=1000), upwards, "add", 0.0)
    assert joules_interval(nothing, upwards) == pytest.approx((0.0, 4e-3), abs=3e-4)


def test_a_low_end_next_to_nothing_does_not_make_nothing_likely():
    almost = with_interval("launch", (1e-6, 1e-18, 4e-6))
    joules = saving._joules(price_counts(Counts(launches=1), almost, "add", 0.0), almost, 1000, 0)
    assert np.median(joules) == pytest.approx(1e-6, rel=0.2)
    assert np.quantile(joules, 0.25) == pytest.approx(1e-6 * (1 - 0.674 / 1.645), rel=0.1)
