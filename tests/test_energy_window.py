"""Windows, repeated_load.py: calls counted between any two times, and calls whose period is near a multiple of the tick."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.cost_model.energy_window import PHASES, aliased, aligned_window, merged, phased_window
from szilard.cost_model.repeated_load import BATCH_SECONDS, QUEUED_BATCH_SECONDS, Load
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard

TICK = 0.1
WAVE = [(0.05, 500.0), (0.05, 20.0)]


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 7))
def test_calls_are_counted_in_proportion(first, second, batch):
    card = SimulatedCard()
    load = Load(card.load("a", [(0.02, 300.0)]), card, batch=batch)
    load.start(1.0)
    began, ended = sorted((first, second))
    assert load.calls_between(began, ended) == pytest.approx((ended - began) / 0.02, abs=1e-6)


def test_idle_time_between_batches_holds_no_calls():
    card = SimulatedCard()
    load = Load(card.load("a", [(0.01, 300.0)]), card)
    load.start(0.0)
    card.sleep(1.0)
    load.step()
    assert load.calls_between(0.0, 2.0) == 2.0
    assert load.calls_between(0.01, 1.01) == 0.0


@pytest.mark.parametrize(("synchronise", "aim"), [(None, BATCH_SECONDS), (lambda: None, QUEUED_BATCH_SECONDS)])
@pytest.mark.parametrize("seconds", [3e-6, 0.003, 0.04, 0.9])
def test_warming_finds_a_batch_that_lasts_long_enough(synchronise, aim, seconds):
    card = SimulatedCard()
    load = Load(card.load("a", [(seconds, 300.0)]), card, synchronise)
    assert load.warm(0.5) == pytest.approx(seconds)
    assert load.steady
    assert aim * 0.999 <= load.batch * seconds <= max(2 * aim, seconds * 1.001)


def test_a_rate_that_never_settles_is_noticed():
    card, turns = SimulatedCard(), iter(range(10**6))
    slow = card.load("slow", [(0.05, 300.0)])
    load = Load(lambda: [slow() for _ in range(round(1.3 ** next(turns)))], card)
    load.warm(0.5)
    assert not load.steady


def test_a_queue_is_waited_for():
    card = SimulatedCard()
    work, queue = card.load("a", [(0.01, 300.0)]), []
    direct = Load(work, card, batch=5)
    direct.start(0.2)

    def synchronise():
        while queue:
            queue.pop()()

    queued = Load(lambda: queue.append(work), card, synchronise, batch=5)
    queued.start(0.2)
    assert not queue
    assert queued.calls_between(0.0, 9.0) == direct.calls_between(0.0, 9.0) == 20


@pytest.mark.parametrize("period", [0.1, 0.2, 0.05, 0.1003, 0.15, 0.3])
def test_periods_near_the_tick_are_aliased(period):
    assert aliased(period, TICK, 5.0)


@pytest.mark.parametrize("period", [0.001, 0.012, 0.0617, 0.1618, 0.51, 3.0])
def test_other_periods_are_not(period):
    assert not aliased(period, TICK, 5.0)
    assert not aliased(0.001, 0.001, 5.0)


def error(period_error, phased, seed):
    card = SimulatedCard(CardTraits(seed=seed, full=False, drift_watts=0.0, leakage=0.0))
    load = Load(card.load("wave", [(seconds * (1 + period_error), watts) for seconds, watts in WAVE]), card)
    window = phased_window(card, card, load, 5.0, 0.5, TICK, TICK) if phased else aligned_window(card, card, load, 5.0, 0.5)
    return window.joules_per_call / card.truth("wave", window.began, window.ended) - 1.0


@pytest.mark.parametrize("period_error", [0.0, 0.002])
def test_eight_phases_undo_the_aliasing_of_a_counter_that_looks_at_a_quarter(period_error):
    plain = [error(period_error, False, seed) for seed in range(6)]
    phased = [error(period_error, True, seed) for seed in range(6)]
    assert math.sqrt(np.mean(np.square(plain))) > 0.3
    assert max(map(abs, phased)) < 0.1
    assert abs(np.mean(phased)) < 0.04


def test_windows_merge_into_sums():
    card = SimulatedCard(CardTraits(seed=2))
    load = Load(card.load("a", [(0.02, 300.0)]), card)
    parts = [aligned_window(card, card, load, 0.4, 0.2, TICK * phase / PHASES) for phase in range(3)]
    whole = merged(parts)
    assert whole.joules == pytest.approx(sum(part.joules for part in parts))
    assert whole.calls == pytest.approx(sum(part.calls for part in parts))
    assert (whole.began, whole.ended) == (parts[0].began, parts[2].ended)
    assert whole.seconds < whole.ended - whole.began
    assert whole.watts == pytest.approx(420.0, rel=0.05)
    assert whole.seconds_per_call == pytest.approx(0.02, rel=0.01)
