"""Intervals of readings, and looks at them that may stop a session: 95 % hold the truth however often one looks."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from szilard.cost_model.energy_reading import (
    CONFIDENCE,
    LEAST_WINDOWS,
    EnergyReading,
    confidence_after,
    look_confidence,
    mean_interval,
    next_look,
    with_sensor_error,
)


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=30), st.floats(0.5, 0.999))
def test_the_interval_is_students(samples, confidence):
    mean, low, high = mean_interval(samples, confidence)
    error = scipy.stats.sem(samples)
    if error > 1e-9:
        expected = scipy.stats.t.interval(confidence, len(samples) - 1, loc=np.mean(samples), scale=error)
        assert (low, high) == pytest.approx(expected)
    assert low <= mean <= high


def test_one_sample_has_no_interval():
    with pytest.raises(ValueError, match="two samples"):
        mean_interval([1.0])


def test_all_looks_together_miss_one_time_in_twenty_at_most():
    missed = [1.0 - look_confidence(look) for look in range(50)]
    assert sum(missed) <= 1.0 - CONFIDENCE + 1e-12
    assert missed == sorted(missed, reverse=True)
    assert missed[0] > 0.02


def test_looks_come_further_and_further_apart():
    looks = [next_look(0)]
    while looks[-1] < 30:
        looks.append(next_look(looks[-1]))
    assert looks == [LEAST_WINDOWS, 7, 10, 14, 20, 28, 40]


def test_windows_are_as_many_looks_as_a_session_takes_to_reach_them():
    assert confidence_after(LEAST_WINDOWS) == look_confidence(0)
    assert confidence_after(LEAST_WINDOWS + 1) == look_confidence(1)
    assert [confidence_after(n) for n in (7, 10, 14)] == [look_confidence(look) for look in (1, 2, 3)]


def coverage(confidence_of, trials=800):
    """How often a session that stops at the first interval below 1 % holds the mean: samples scatter by 2 %."""
    draws = np.random.default_rng(3).normal(1.0, 0.02, (trials, 80))
    held = 0
    for samples in draws:
        windows, look = LEAST_WINDOWS, 0
        while True:
            mean, low, high = mean_interval(samples[:windows], confidence_of(look))
            if (high - low) / 2.0 / mean <= 0.01 or windows >= 60:
                held += low <= 1.0 <= high
                break
            windows, look = next_look(windows), look + 1
    return held / trials


def test_a_session_that_stops_when_it_likes_what_it_sees_still_holds_the_truth():
    assert coverage(look_confidence) >= 0.95
    assert coverage(lambda look: CONFIDENCE) < 0.945


@given(st.floats(0.1, 10.0), st.floats(0.0, 0.5), st.floats(0.0, 0.2), st.floats(-1.0, 1.0))
def test_an_interval_with_the_sensors_error_holds_what_a_perfect_one_reads(truth, width, error, share):
    seen = truth * (1.0 + error * share)
    low, high = with_sensor_error(seen * (1.0 - width), seen * (1.0 + width), error)
    assert low <= truth * (1 + 1e-9)
    assert high >= truth * (1 - 1e-9)
    assert with_sensor_error(1.0, 2.0, 0.0) == (1.0, 2.0)


def test_half_width_is_a_share_of_the_joules():
    assert EnergyReading("measured", "A counter.", 2.0, 1.9, 2.1).half_width == pytest.approx(0.05)
    assert EnergyReading("unavailable", "No counter.").half_width is None
