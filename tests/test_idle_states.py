"""The three idle states of a simulated card, each with its own power."""

import pytest

from szilard.cost_model.counter import Sensors
from szilard.cost_model.idle_states import measure_idle
from szilard.cost_model.meter import Meter
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard
from szilard.cost_model.simulated_meter import SimulatedMeter


def idle(card, **options):
    spin = card.load("spin", [(0.001, 1.5)])
    return measure_idle(SimulatedMeter(card), open_context=spin, spin=spin, seconds=1.0, settle_seconds=2.0, **options)


def test_each_state_has_its_power():
    states = idle(SimulatedCard(CardTraits(seed=4, drift_watts=0.2, leakage=0.0)))
    assert states.label == "modelled"
    for state, watts, clock in ((states.deep, 75.0, 345.0), (states.context, 90.0, 345.0), (states.active, 121.5, 1980.0)):
        assert state.watts == pytest.approx(watts, rel=0.01)
        assert state.low < state.watts < state.high
        assert state.high - state.low < 2.0
        assert (state.clock, state.temperature) == (clock, pytest.approx(40.0, abs=4.0))


def test_an_open_context_leaves_no_deep_idle():
    card = SimulatedCard()
    card.load("a", [(0.1, 300.0)])()
    states = measure_idle(SimulatedMeter(card), seconds=0.5, settle_seconds=2.0)
    assert states.deep is None
    assert states.active is None
    assert states.context.watts == pytest.approx(90.0, rel=0.05)


def test_a_counter_that_fails_leaves_no_states():
    frozen = idle(SimulatedCard(CardTraits(freeze_at=9.0)))
    assert (frozen.deep, frozen.context, frozen.active, frozen.label) == (None, None, None, "unavailable")
    assert "stood still" in frozen.reason
    split = idle(SimulatedCard(CardTraits(sensors=Sensors(mig=True))))
    assert split.label == "unavailable"
    assert "MIG" in split.reason
    assert measure_idle(Meter("unavailable", "No counter.")).reason == "No counter."
    recorded = measure_idle(Meter("replayed", "Joules are those recorded."))
    assert recorded.label == "unavailable"
    assert "recording" in recorded.reason
