"""Counters that wrap, reset and jump; counter_edges.py: brackets of ticks, and how much a window between them beats a naive one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.cost_model.counter import LARGEST_WATTS, SLACK_SECONDS, CounterFault, Unwrapped
from szilard.cost_model.counter_edges import FROZEN_SECONDS, POLL_SECONDS, EdgeWatch, next_edge, tick_period
from szilard.cost_model.energy_window import aligned_window
from szilard.cost_model.repeated_load import Load
from szilard.cost_model.simulated_card import POLL_SPREAD, CardTraits, SimulatedCard

SEEDS = 200
STILL = {"flicker": 0.0, "drift_watts": 0.0, "leakage": 0.0, "noise": 0.0, "tick_jitter": 0.0}
WATTS = 520.0


@given(st.lists(st.floats(0.0, 900.0), max_size=30), st.floats(0.0, 999.0))
def test_wraps_are_corrected(steps, start):
    true, clock = [start], [0.0]
    unwrapped = Unwrapped(lambda: true[0] % 1000.0, 1000.0, lambda: clock[0])
    first = unwrapped()
    for step in steps:
        true[0] += step
        clock[0] += 1.0
        assert unwrapped() - first == pytest.approx(true[0] - start, abs=1e-6)


@given(st.floats(1.0, 1e6), st.floats(1e-3, 0.999))
def test_without_a_span_to_go_backwards_is_a_fault(first, share):
    raw = [first]
    unwrapped = Unwrapped(lambda: raw[0], None, lambda: 0.0)
    unwrapped()
    raw[0] = first * share
    with pytest.raises(CounterFault, match="went backwards"):
        unwrapped()
    assert unwrapped() == unwrapped()  # the fault is over: a new window may begin


def test_a_reset_is_told_from_a_wrap_by_what_it_would_mean():
    raw, clock, span = [100.0], [0.0], 262144.0
    unwrapped = Unwrapped(lambda: raw[0], span, lambda: clock[0])
    unwrapped()
    raw[0], clock[0] = 3.0, 0.02
    with pytest.raises(CounterFault, match="jumped from 100 to 3 J"):
        unwrapped()
    raw[0] = span - 1.0 - 2.0 * LARGEST_WATTS * SLACK_SECONDS
    with pytest.raises(CounterFault, match="jumped"):
        unwrapped()
    raw[0], clock[0] = span - 1.0, 1.0
    before = unwrapped()
    raw[0], clock[0] = 2.0, 1.02
    assert unwrapped() - before == pytest.approx(3.0)


def steady(seed, **traits):
    """A card that draws 520 W without any fluctuation, half a second into its load."""
    card = SimulatedCard(CardTraits(seed=seed, **{**STILL, **traits}))
    load = Load(card.load("steady", [(0.01, WATTS - card.traits.active_watts)]), card)
    load.start(0.5)
    return card, load


def unaligned_error(seed, calls):
    card, load = steady(seed)
    began, first = card.now(), card.joules()
    for _ in range(calls):
        load.step()
    return (card.joules() - first) / (WATTS * (card.now() - began)) - 1.0


def aligned_error(seed, calls):
    card, load = steady(seed)
    window = aligned_window(card, card, load, calls * 0.01, 0.2)
    return window.joules_per_call / (WATTS * 0.01) - 1.0


def rms(errors):
    return math.sqrt(np.mean(np.square(errors)))


def lengths(calls):
    """Window lengths that end anywhere in a tick."""
    return [(seed, calls + int(np.random.default_rng(seed).integers(10))) for seed in range(SEEDS)]


@pytest.mark.parametrize(("seconds", "published_rms", "published_most"), [(1.0, 0.04, 0.10), (5.0, 0.008, 0.02)])
def test_an_unaligned_read_is_wrong_by_a_triangle_of_one_tick(seconds, published_rms, published_most):
    errors = [unaligned_error(seed, calls) for seed, calls in lengths(round(seconds * 100))]
    derived = 0.1 / math.sqrt(6.0) / (seconds + 0.045)
    assert rms(errors) == pytest.approx(derived, rel=0.15)
    assert rms(errors) == pytest.approx(published_rms, rel=0.25)
    assert 0.6 * published_most < max(map(abs, errors)) <= 0.1 / seconds


def test_alignment_beats_the_naive_read_by_the_factor_it_should():
    low, high = (factor * POLL_SECONDS for factor in POLL_SPREAD)
    # A tick falls into a bracket with a chance in proportion to its length g, evenly: variance E[g^3] / (12 E[g]) for each edge.
    edge_variance = (high**4 - low**4) / (4.0 * (high - low)) / (12.0 * (low + high) / 2.0)
    derived = (0.1 / math.sqrt(6.0)) / math.sqrt(2.0 * edge_variance)
    assert 60 < derived < 100
    naive = rms([unaligned_error(seed, calls) for seed, calls in lengths(100)])
    aligned = rms([aligned_error(seed, calls) for seed, calls in lengths(100)])
    assert naive / aligned >= derived / 2.0
    assert aligned == pytest.approx(math.sqrt(2.0 * edge_variance) / 1.1, rel=0.25)


def test_an_aligned_window_of_five_seconds_is_right_to_a_thousandth():
    assert max(abs(aligned_error(seed, 500)) for seed in range(40)) < 1e-3


def test_brackets_hold_the_ticks_and_late_ones_are_passed_over():
    for seed in range(20):
        card, load = steady(seed)
        ticks = []
        tick = card._tick
        card._tick = lambda tick=tick, card=card, ticks=ticks: (ticks.append(card.now()), tick())
        for _ in range(10):
            edge = next_edge(card, card, load.step)
            assert any(edge.before <= time <= edge.after for time in ticks)
            assert edge.width <= 4 * POLL_SECONDS


def test_the_narrowest_bracket_is_taken_where_all_are_wide():
    times, joules = [0.0], [0.0]

    class Late:
        def now(self):
            return times[0]

        def joules(self):
            return joules[0]

    watch = EdgeWatch(Late(), Late())
    for gap in (0.0, 0.05, 0.02, 0.03):
        assert watch.chosen() is None
        times[0], joules[0] = times[0] + gap, joules[0] + 1.0
        watch.poll()
    assert watch.chosen().width == pytest.approx(0.02)


@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.9])
def test_the_tick_is_found_however_long_a_call_is(seconds):
    card = SimulatedCard(CardTraits(tick=0.08))
    load = Load(card.load("a", [(seconds, 300.0)]), card)
    assert tick_period(card, card, load.step) == pytest.approx(0.08, rel=0.03)


def test_a_counter_that_stands_still_under_load_is_a_fault():
    card, load = steady(3, freeze_at=0.3)
    began = card.now()
    with pytest.raises(CounterFault, match="stood still"):
        next_edge(card, card, load.step)
    assert FROZEN_SECONDS < card.now() - began < 2 * FROZEN_SECONDS
