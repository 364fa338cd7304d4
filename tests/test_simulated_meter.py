"""The whole meter on simulated_card.py: over 200 cards the truth lies in the stated interval, and every flaw has its sentence."""

import math
from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.counter import Sensors
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard
from szilard.cost_model.simulated_meter import SimulatedMeter

SEEDS = 200
QUICK = {"least_seconds": 1.0, "warm_seconds": 1.0, "settle_seconds": 0.5, "most_seconds": 20.0}
SHAPE = [(0.006, 400.0), (0.014, 250.0)]


def cards(**traits):
    """Cards that each have a gain within 6 %, a counter that wraps once or more, their own drift and noise."""
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        own = {"gain": draw.uniform(0.94, 1.06), "span": draw.uniform(1500.0, 3500.0), "noise": draw.uniform(0.0, 0.01)}
        yield SimulatedCard(CardTraits(seed=seed, drift_watts=draw.uniform(0.0, 3.0), **own, **traits))


def test_the_truth_lies_in_the_interval_of_19_of_20_cards():
    held = held_with_gain = precise = wrapped = 0
    for card in cards():
        reading = SimulatedMeter(card).energy(card.load("a", SHAPE), sensor_error=0.06, **QUICK)
        truth = card.truth("a", reading.windows[0].began, reading.windows[-1].ended)
        held += reading.low * 1.06 <= truth * card.traits.gain <= reading.high * 0.94
        held_with_gain += reading.low <= truth <= reading.high
        precise += reading.log.stopped == "precise"
        wrapped += card._counted > card.traits.span > card._raw()
        assert reading.label == "modelled"
    assert held >= 0.95 * SEEDS
    assert held_with_gain >= 0.95 * SEEDS
    assert precise >= 0.95 * SEEDS
    assert wrapped == SEEDS


def test_the_interval_is_about_this_sensor_unless_its_error_is_asked_for():
    card = SimulatedCard(CardTraits(gain=1.05))
    reading = SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK)
    truth = card.truth("a", reading.windows[0].began, reading.windows[-1].ended)
    assert not reading.low <= truth <= reading.high
    assert reading.low <= 1.05 * truth <= reading.high


@pytest.mark.long
def test_the_truth_lies_in_the_interval_where_a_quarter_of_the_time_is_seen_and_calls_are_aliased():
    held = 0
    for card in cards(full=False):
        reading = SimulatedMeter(card).energy(card.load("wave", [(0.04, 400.0), (0.06, 50.0)]), **QUICK)
        truth = card.truth("wave", reading.windows[0].began, reading.windows[-1].ended) * card.traits.gain
        assert reading.log.phases == 8
        held += reading.low <= truth <= reading.high
    assert held >= 0.95 * SEEDS


def test_the_difference_of_two_loads_has_the_right_sign():
    for seed in range(10):
        card = SimulatedCard(CardTraits(seed=seed))
        readings = SimulatedMeter(card).energies(
            {"a": card.load("a", [(0.02, 400.0)]), "b": card.load("b", [(0.02, 415.0)])}, **QUICK
        )
        assert readings["b"].joules > readings["a"].joules


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"fault": "is not supported by this device or its driver (Not Supported)"}, "not supported by this device"),
        ({"fault": "may not be read by this user (Insufficient Permissions)"}, "may not be read by this user"),
        ({"sensors": Sensors(mig=True)}, "split by MIG"),
        ({"sensors": Sensors(others=(7, 9))}, "shared with the processes 7, 9"),
    ],
)
def test_what_rules_a_counter_out_is_said_when_it_is_opened(flaw, words):
    card = SimulatedCard(CardTraits(**flaw))
    meter = SimulatedMeter(card)
    assert meter.status == "unavailable"
    assert words in meter.reason
    assert meter.reason.startswith("No energy counter: that of a simulated card ")
    assert meter.reason.endswith("joules are modelled.")
    reading = meter.energy(card.load("a", SHAPE))
    assert (reading.label, reading.joules, reading.reason, card.now()) == ("unavailable", None, meter.reason, 0.0)


@pytest.mark.parametrize("when", [0.05, 2.0, 4.23, 7.9])
@pytest.mark.parametrize(
    ("flaw", "words"), [("freeze_at", "stood still for 0.5 s while the device worked"), ("reset_at", "went backwards")]
)
def test_a_counter_that_fails_under_way_leaves_no_joules(flaw, words, when):
    card = SimulatedCard(CardTraits(**{flaw: when}))
    reading = SimulatedMeter(card).energy(card.load("a", SHAPE), **{**QUICK, "half_width": 1e-9})
    assert (reading.label, reading.joules) == ("unavailable", None)
    assert words in reading.reason


def test_a_reset_of_a_counter_that_could_wrap_is_no_wrap():
    card = SimulatedCard(CardTraits(reset_at=4.0, span=262144.0))
    reading = SimulatedMeter(card).energy(card.load("a", SHAPE), **QUICK)
    assert reading.label == "unavailable"
    assert "jumped" in reading.reason


def test_after_a_reset_the_next_session_measures_again():
    card = SimulatedCard(CardTraits(reset_at=4.0))
    meter, run = SimulatedMeter(card), card.load("a", SHAPE)
    assert meter.energy(run, **QUICK).label == "unavailable"
    assert meter.energy(run, **QUICK).label == "modelled"


def test_the_card_keeps_its_books():
    card = SimulatedCard(CardTraits(flicker=0.0, drift_watts=0.0, leakage=0.0))
    run = card.load("a", [(0.25, 400.0), (0.75, 0.0)])
    card.sleep(2.0)
    run()
    run()
    assert card.truth("a") == pytest.approx(120.0 + 100.0)
    assert card._joules == pytest.approx(2.0 * 75.0 + 2 * 220.0)
    card.sleep(3.0)
    assert card._joules == pytest.approx(2.0 * 75.0 + 2 * 220.0 + 120.0 + 2 * 90.0, rel=0.02)
    assert card.now() == pytest.approx(7.0)


def test_heat_leaks():
    card = SimulatedCard(CardTraits(flicker=0.0, drift_watts=0.0))
    run = card.load("a", [(1.0, 400.0)])
    for _ in range(200):
        run()
    card.sensors()
    early, late = card.truth("a", 0.0, 5.0), card.truth("a", 190.0, 200.0)
    warmth = 0.06 * late
    assert late == pytest.approx(520.0 + 120.0 * 0.003 * warmth, rel=0.01)
    assert late > early * 1.01
    assert card.sensors().temperature == pytest.approx(35.0 + warmth, abs=1.0)


def test_a_second_watch_is_a_mistake():
    card = SimulatedCard()
    with card.watch(lambda: None, 0.1), pytest.raises(ValueError, match="one watch"), card.watch(lambda: None, 0.1):
        pass
    assert math.isinf(card._next_poll)
    assert replace(card.traits, seed=1) != card.traits
