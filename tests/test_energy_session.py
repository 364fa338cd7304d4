"""Sessions on a simulated card: order, stopping, flags, what is static, and faults that come in the middle."""

from dataclasses import replace
from itertools import pairwise

import pytest

from szilard.cost_model.counter import Sensors
from szilard.cost_model.energy_session import Effort, measure_energies
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard
from szilard.cost_model.simulated_meter import SimulatedMeter

QUICK = {"least_seconds": 0.5, "warm_seconds": 0.4, "settle_seconds": 0.4, "most_seconds": 10.0}
SHAPE = [(0.01, 400.0)]


def test_windows_are_taken_in_abba_order():
    card = SimulatedCard()
    readings = SimulatedMeter(card).energies({name: card.load(name, SHAPE) for name in "abc"}, half_width=0.1, **QUICK)
    taken = sorted((window.began, name) for name, reading in readings.items() for window in reading.windows)
    assert "".join(name for _, name in taken).startswith("abccbaabccba")
    assert {len(reading.windows) for reading in readings.values()} == {5}


def test_drift_favours_neither_of_two_equal_loads():
    warming = CardTraits(leakage=0.02, heat_seconds=20.0, drift_watts=0.0)
    card = SimulatedCard(warming)
    meter = SimulatedMeter(card)
    both = meter.energies({name: card.load(name, SHAPE) for name in "ab"}, half_width=0.0, **{**QUICK, "most_seconds": 8.0})
    card = SimulatedCard(warming)
    one, two = (
        SimulatedMeter(card).energy(card.load(name, SHAPE), half_width=0.0, **{**QUICK, "most_seconds": 8.0}) for name in "ab"
    )
    assert abs(both["b"].joules / both["a"].joules - 1.0) < 0.004
    assert two.joules / one.joules - 1.0 > 0.01


def test_the_session_stops_at_the_first_narrow_interval_and_says_so():
    card = SimulatedCard()
    reading = SimulatedMeter(card).energy(card.load("a", SHAPE), half_width=0.05, **QUICK)
    assert reading.half_width <= 0.05
    assert (reading.log.stopped, len(reading.windows), reading.log.flags) == ("precise", 5, ())


def test_the_time_limit_ends_a_session_that_cannot_be_that_precise():
    card = SimulatedCard()
    reading = SimulatedMeter(card).energy(card.load("a", SHAPE), half_width=1e-6, **QUICK)
    assert reading.log.stopped == "time limit"
    assert any("time limit" in flag for flag in reading.log.flags)
    assert 9.0 < card.now() < 14.0
    assert len(reading.windows) > 5


def test_more_windows_are_taken_where_the_first_five_scatter():
    noisy = SimulatedCard(CardTraits(noise=0.05))
    reading = SimulatedMeter(noisy).energy(noisy.load("a", SHAPE), half_width=0.015, **{**QUICK, "most_seconds": 60.0})
    assert reading.log.stopped == "precise"
    assert len(reading.windows) in (7, 10, 14, 20, 28, 40)


@pytest.mark.parametrize(("seconds", "window"), [(0.01, 0.5), (0.05, 1.6), (0.9, 10.0 / 6.0)])
def test_a_window_holds_32_calls_as_far_as_five_fit_into_the_time(seconds, window):
    card = SimulatedCard()
    reading = SimulatedMeter(card).energy(card.load("a", [(seconds, 100.0)]), half_width=1.0, **QUICK)
    spare = reading.log.phases * (
        0.25 + seconds
    )  # the next tick comes within 100 ms, rarely with a narrow bracket only the second
    assert all(window * 0.999 <= each.seconds <= window + spare for each in reading.windows)
    assert reading.seconds == pytest.approx(seconds, rel=1e-6)


def test_aliased_calls_are_measured_at_eight_phases():
    shape = [(0.05, 400.0), (0.05, 0.0)]
    card = SimulatedCard(CardTraits(full=False, leakage=0.0, drift_watts=0.0))
    reading = SimulatedMeter(card).energy(card.load("wave", shape), half_width=0.02, **{**QUICK, "most_seconds": 60.0})
    assert reading.log.phases == 8
    truth = card.truth("wave", reading.windows[0].began, reading.windows[-1].ended)
    assert reading.low <= truth <= reading.high
    assert reading.joules == pytest.approx(truth, rel=0.05)


def test_static_joules_are_idle_watts_for_the_seconds_of_a_call():
    card = SimulatedCard()
    reading = SimulatedMeter(card).energy(card.load("a", SHAPE), idle_watts=120.0, **QUICK)
    assert reading.static_joules == pytest.approx(1.2)
    assert reading.static_joules < reading.joules
    assert SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK).static_joules is None


@pytest.mark.parametrize(("factor", "flagged"), [(1.0, False), (1.02, False), (1.05, True), (0.9, True)])
def test_sampled_power_that_disagrees_with_the_counter_is_flagged(factor, flagged):
    card = SimulatedCard()
    card.watts = lambda: card._sampled * factor
    log = SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK).log
    assert log.cross_check == pytest.approx(factor, rel=0.01)
    assert any("Sampled power" in flag for flag in log.flags) == flagged


def test_a_counter_without_power_samples_has_no_cross_check():
    card = SimulatedCard()
    card.watts = lambda: None
    assert SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK).log.cross_check is None


def test_sensors_are_logged_at_both_ends_under_load():
    card = SimulatedCard(CardTraits(kelvin_per_watt=0.1, heat_seconds=5.0))
    log = SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK).log
    assert log.before.temperature < log.after.temperature
    assert log.before.clock == log.after.clock == 1980.0
    assert log.after.driver == "simulated"
    assert log.tick == pytest.approx(0.1, rel=0.05)
    assert 0 < log.edge_seconds < 0.005


def test_edges_that_are_known_badly_are_flagged(monkeypatch):
    monkeypatch.setattr("szilard.cost_model.simulated_card.POLL_SPREAD", (20.0, 30.0))
    card = SimulatedCard()
    log = SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK).log
    assert log.edge_seconds > 0.01
    assert any("edges of a window" in flag for flag in log.flags)


def test_an_unsteady_rate_is_flagged():
    card, turns = SimulatedCard(), iter(range(10**6))
    run = card.load("a", SHAPE)
    log = SimulatedMeter(card).energy(lambda: [run() for _ in range(round(1.3 ** min(next(turns), 22)))], **QUICK).log
    assert any("steady" in flag for flag in log.flags)


@pytest.mark.parametrize(
    ("state", "words"), [(Sensors(others=(41,)), "process 41,"), (Sensors(throttle=("thermal slowdown",)), "slowed down")]
)
def test_a_state_that_comes_during_the_work_ends_it(state, words):
    card = SimulatedCard()
    run, calls = card.load("a", SHAPE), iter(range(10**6))

    def late():
        run()
        if next(calls) == 300:
            card.traits = replace(card.traits, sensors=state)

    meter = SimulatedMeter(card)
    reading = meter.energy(late, **QUICK)
    assert meter.status == "modelled"
    assert (reading.label, reading.joules, reading.windows) == ("unavailable", None, ())
    assert words in reading.reason
    assert card.now() < 5.0


def test_a_card_that_is_shared_by_now_is_given_no_work():
    card = SimulatedCard()
    meter = SimulatedMeter(card)
    card.traits = replace(card.traits, sensors=Sensors(others=(41,)))
    assert "process 41," in meter.energy(card.load("a", SHAPE), **QUICK).reason
    assert card.now() == 0.0


def test_what_a_run_raises_is_not_swallowed():
    def broken():
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        SimulatedMeter(SimulatedCard()).energy(broken)


def test_work_settles_before_each_window():
    card = SimulatedCard()
    readings = SimulatedMeter(card).energies(
        {name: card.load(name, SHAPE) for name in "ab"}, half_width=1.0, **{**QUICK, "settle_seconds": 3.0}
    )
    windows = sorted((window.began, window.ended) for reading in readings.values() for window in reading.windows)
    assert all(later[0] - earlier[1] >= 3.0 for earlier, later in pairwise(windows))


def test_nothing_to_measure_is_a_mistake():
    card = SimulatedCard()
    with pytest.raises(ValueError, match="nothing to measure"):
        measure_energies(card, card, {}, Effort(), None, "modelled", "")
