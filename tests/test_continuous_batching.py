"""Continuous batching against a server simulated event by event, and the paper's eq. 20 and 21 against search and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from szilard.cost_model.continuous_batching import (
    gathered_batch,
    largest_arrivals,
    occupancy,
    printed_optimal_batch,
    printed_request_energy,
    steps,
)
from szilard.cost_model.errors import InputError
from szilard.cost_model.serving import OperatingPoint

from .batching_simulation import simulate

IDLE = 90.0


def seconds(k: int) -> float:
    """A step that waits for memory until 12 sequences, then for arithmetic."""
    return max(0.02, 0.008 + 0.001 * k)


def joules(k: int) -> float:
    return IDLE * seconds(k) + 1.5 + 0.2 * k


def points(limit: int, every: int = 1):
    return [
        OperatingPoint(k, seconds(k), joules(k) / k, IDLE * seconds(k) / k, 0.0)
        for k in sorted({*range(1, limit + 1, every), 12, limit})
        if k <= limit
    ]


def fixed(tokens: int):
    return lambda random: tokens


def memoryless(tokens: int):
    return lambda random: int(random.geometric(1 / tokens))


@pytest.mark.parametrize(
    ("arrivals", "tokens", "limit", "draw"),
    [
        (0.2, 60, 64, fixed),  # mostly idle
        (4.0, 60, 64, fixed),  # a handful together
        (9.0, 60, 64, memoryless),  # the same mean, other lengths
        pytest.param(9.5, 60, 64, fixed, marks=pytest.mark.long),
        pytest.param(5.0, 100, 16, memoryless, marks=pytest.mark.long),  # some wait
    ],
)
def test_occupancy_and_joules_lie_in_the_intervals_of_the_simulation(arrivals, tokens, limit, draw):
    seen = simulate(seconds, joules, arrivals=arrivals, draw=draw(tokens), limit=limit, idle_watts=IDLE, requests=9600, seed=3)
    found = occupancy(points(limit), arrivals, tokens, IDLE)
    for name in ("batch", "busy", "joules", "request_seconds", "seconds_per_token"):
        low, high = getattr(seen, name)
        if name == "busy" and found.busy > 0.99:
            continue  # pauses so rare that stretches without one say nothing about the others
        assert low * (1 - 1e-9) <= getattr(found, name) <= high * (1 + 1e-9), name
        assert high - low < 0.15 * low


def test_a_queue_that_is_a_tenth_faster_fails_the_simulation():
    """The intervals are narrow enough to tell."""
    seen = simulate(seconds, joules, arrivals=4.0, draw=fixed(60), limit=64, idle_watts=IDLE, requests=9600, seed=3)
    faster = [OperatingPoint(p.batch, p.seconds / 1.1, p.joules, p.static, 0.0) for p in points(64)]
    wrong = occupancy(faster, 4.0, 60, IDLE)
    for name in ("batch", "busy", "joules", "request_seconds", "seconds_per_token"):
        low, high = getattr(seen, name)
        assert not low <= getattr(wrong, name) <= high, name


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 0.98), st.integers(1, 300), st.integers(1, 80))
def test_tokens_in_are_tokens_out(load, tokens, limit):
    """A law of any queue (Little): what is in service is the rate of tokens times their seconds; and energy is power over rate."""
    arrivals = load * largest_arrivals(points(limit), tokens)
    found = occupancy(points(limit), arrivals, tokens, IDLE)
    assert found.busy * found.batch == pytest.approx(arrivals * tokens * found.seconds_per_token)
    assert 0 < found.busy < 1
    assert 1 - 1e-9 <= found.batch <= limit + 1e-9
    assert found.joules >= tokens * min(joules(k) / k for k in range(1, limit + 1))
    assert found.request_seconds >= tokens * found.seconds_per_token - 1e-9
    assert found.idle_joules == pytest.approx((1 - found.busy) * IDLE / arrivals)


def test_more_arrivals_make_larger_batches_and_cheaper_requests():
    found = [occupancy(points(64), rate, 60, IDLE) for rate in (0.1, 1.0, 3.0, 9.0)]
    assert [f.batch for f in found] == sorted(f.batch for f in found)
    assert [f.joules for f in found] == sorted((f.joules for f in found), reverse=True)


def test_points_between_which_a_step_is_straight_may_be_left_out():
    one, other = (occupancy(points(64, every), 9.0, 60, IDLE) for every in (1, 9))
    assert one.joules == pytest.approx(other.joules)
    taken, spent = steps(points(64, 9), 64)
    np.testing.assert_allclose(taken, [seconds(k) for k in range(1, 65)])
    np.testing.assert_allclose(spent, [joules(k) for k in range(1, 65)])


def test_more_than_can_be_served_is_refused_with_the_devices_it_takes():
    most = largest_arrivals(points(64), 60)
    assert most == pytest.approx(64 / 0.072 / 60)
    assert occupancy(points(64), 0.999 * most, 60, IDLE).waiting > 10
    with pytest.raises(InputError, match=r"queue would grow without end; spread them over 3 or more devices"):
        occupancy(points(64), 2.5 * most, 60, IDLE)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 200), st.floats(0.01, 10), st.integers(1, 60))
def test_eq_20_is_the_largest_batch_that_satisfies_it(arrivals, longest, limit):
    found = gathered_batch(arrivals, longest, lambda k: 60 * seconds(k) / 100, limit)
    able = [k for k in range(1, limit + 1) if k <= math.floor(arrivals * (longest - 60 * seconds(k) / 100))]
    assert found == max(able, default=0)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 500), st.floats(0.1, 60), st.floats(1e-3, 10))
def test_the_optimum_that_eq_21_states_is_that_of_its_printed_form(static, longest, marginal):
    expected = minimize_scalar(
        lambda log: printed_request_energy(math.exp(log), static, longest, 2.0, marginal), bounds=(-10, 15), method="bounded"
    )
    assert printed_optimal_batch(static, longest, marginal) == pytest.approx(math.exp(expected.x), rel=1e-3)


def test_the_joules_of_a_real_request_have_no_such_optimum():
    """With weights shared by the batch, joules a request fall all the way: e_dynamic falls with B, it does not grow by e_marginal."""
    each = [60 * joules(k) / k for k in range(1, 65)]
    assert each == sorted(each, reverse=True)
    assert printed_optimal_batch(IDLE, 60 * seconds(64), 0.2) < 64
