"""Ticks of a counter, and the square wave that tells full integration from looks at a quarter of the time."""

import pytest

from szilard.cost_model.counter import CounterFault
from szilard.cost_model.sensor_checks import SquareWave, square_wave, tick_histogram
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard


@pytest.mark.parametrize("tick", [0.1, 0.02, 0.05])
def test_the_histogram_finds_the_tick(tick):
    card = SimulatedCard(CardTraits(tick=tick, tick_jitter=tick / 100))
    found = tick_histogram(card, card)
    assert found.period == pytest.approx(tick, rel=0.03)
    assert len(found.periods) == pytest.approx(3.0 / tick, abs=2)
    assert sum(found.milliseconds().values()) == len(found.periods)
    assert max(found.milliseconds(), key=found.milliseconds().get) == pytest.approx(tick * 1e3, abs=2)
    assert found.step == pytest.approx(75.0 * tick, rel=0.2)


def test_ticks_under_load_are_larger():
    card, queue = SimulatedCard(), []
    work = card.load("a", [(0.001, 400.0)])
    assert tick_histogram(card, card, work).step > 40.0
    assert tick_histogram(card, card, lambda: queue.append(work), lambda: queue.pop()()).step > 40.0


def test_a_dead_counter_has_no_ticks():
    card, slow = SimulatedCard(CardTraits(freeze_at=0.0)), SimulatedCard()
    with pytest.raises(CounterFault, match="stood still"):
        tick_histogram(card, card)
    with pytest.raises(CounterFault, match="ticked 1 times only"):
        tick_histogram(slow, slow, seconds=0.15)


@pytest.mark.parametrize(("full", "verdict"), [(True, "full"), (False, "windowed")])
@pytest.mark.parametrize("seed", range(4))
def test_the_square_wave_tells_how_a_counter_integrates(full, verdict, seed):
    card = SimulatedCard(CardTraits(seed=seed, full=full))
    found = square_wave(card, card, card.load("a", [(0.001, 400.0)]))
    assert found.verdict == verdict
    assert len(found.phases) == 8
    assert found.busy == pytest.approx(525.0, rel=0.03)
    assert found.rest == pytest.approx(75.0, rel=0.2) or found.rest == pytest.approx(90.0, rel=0.1)
    if full:
        assert found.ratio < 1.05
    else:
        # Idle between the halves of a wave is awake: 120 W. A look of 25 ms lies wholly in work or wholly in rest.
        assert found.ratio == pytest.approx(520.0 / 120.0, rel=0.25)


def test_work_that_draws_no_power_tells_nothing():
    card = SimulatedCard(CardTraits(deep_watts=200.0))
    with pytest.raises(ValueError, match="draw more than rest"):
        square_wave(card, card, card.load("a", [(0.001, 1.0)]))


def test_between_the_two_verdicts_there_is_none():
    assert SquareWave(0.1, (280.0, 320.0, 360.0), 500.0, 100.0).verdict == "unclear"
    assert SquareWave(0.1, (300.0, 302.0), 500.0, 100.0).contrast == pytest.approx(0.005)
