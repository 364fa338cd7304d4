"""Joules are fitted with the temperature of each row: static power grows with it, and what is found is that of the rows' mean."""

from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.fit import Estimate
from szilard.cost_model.joule_fit import LEAKAGE, LEAKS, fit_joules

from .hidden_truth import TRUTH, microbenchmarks

PRIOR = load_device("h100")
LEAK = 0.5


def warm(seed: int, leak: float = LEAK):
    """Rows of a card that warms up and leaks, and the mean of their temperatures."""
    rng = np.random.default_rng(seed)
    rows, found = microbenchmarks(rng), []
    for index, row in enumerate(rows):
        kelvin = 40.0 + 30.0 * (1 - np.exp(-index / 8)) + rng.normal(0, 3)
        joules = row.joules + leak * (kelvin - 60.0) * row.seconds
        found.append(replace(row, temperature=kelvin, joules=joules, joules_low=0.99 * joules, joules_high=1.01 * joules))
    return found, float(np.mean([row.temperature for row in found]))


def test_static_power_is_that_at_the_mean_temperature():
    held = []
    for seed in range(10):
        rows, mean = warm(seed)
        found = fit_joules(rows, PRIOR, [row.config for row in rows])
        assert found.temperature == pytest.approx(mean)
        truth = {**TRUTH, "static": TRUTH["static"] + LEAK * (mean - 60.0)}
        assert found.coefficients.keys() == truth.keys()
        held += [one.low <= truth[key] <= one.high for key, one in found.coefficients.items()]
        held.append(found.leakage.low <= LEAK <= found.leakage.high)
        assert found.leakage.value == pytest.approx(LEAK, rel=0.6)
        assert found.at_prior == ()
        assert found.predict(rows[3].design) == pytest.approx(rows[3].joules, rel=0.2)
    assert np.mean(held) >= 0.9


def test_rows_without_a_temperature_say_nothing_of_it():
    rows, _ = warm(1)
    cold = [replace(row, temperature=None) for row in rows]
    found = fit_joules(cold, PRIOR)
    assert (found.temperature, found.leakage) == (None, None)
    assert LEAKAGE not in found.at_prior
    some = [*rows[:-1], cold[-1]]
    assert fit_joules(some, PRIOR).leakage is not None


def test_one_temperature_leaves_leakage_at_what_is_believed():
    rows = [replace(row, temperature=50.0) for row in warm(1)[0]]
    found = fit_joules(rows, PRIOR)
    static = PRIOR.value("static")
    assert found.leakage == Estimate(LEAKS[1] * static, LEAKS[0] * static, LEAKS[2] * static)
    assert found.at_prior == (LEAKAGE,)


def test_rows_without_joules_are_left_out_with_their_kind():
    rows, _ = warm(1)
    lost = replace(rows[0], joules=None, joules_low=None, joules_high=None, label="unavailable")
    kinds = [row.family for row in rows]
    assert fit_joules([lost, *rows], PRIOR, ["lost", *kinds]) == fit_joules(rows, PRIOR, kinds)
    with pytest.raises(InputError, match="cannot tell"):
        fit_joules([rows[0]] * 3, PRIOR)
