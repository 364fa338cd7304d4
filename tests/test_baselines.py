"""Baselines are fitted fairly, and a model with a static term beats them where there is one."""

from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.baselines import FLOPS, FLOPS_AND_BYTES, MEAN_POWER, features, fit_baselines, predict, tdp_baseline
from szilard.cost_model.device import load_device
from szilard.cost_model.measurement import Measurement


def row(seconds, joules, **work):
    keys = {
        "flops": "flop.float32",
        "half": "flop.float16.tensor",
        "bytes": "byte.memory",
        "cached": "byte.cache",
        "link": "link",
    }
    label = "unavailable" if joules is None else "measured"
    found = {keys[name]: float(amount) for name, amount in work.items()}
    return Measurement("a", "matmul", "op", found, seconds, seconds, seconds, joules, joules, joules, label)


def test_what_baselines_know():
    assert features(row(2.0, 1.0, flops=3, half=4, bytes=5, cached=6, link=7)) == {"seconds": 2.0, "flops": 7.0, "bytes": 18.0}


def test_each_baseline_finds_its_own_law():
    rng = np.random.default_rng(0)
    amounts = [(rng.uniform(1, 9), rng.uniform(1, 9), rng.uniform(1, 9)) for _ in range(8)]
    laws = {
        MEAN_POWER: (lambda f, b, t: 300 * t, {"seconds": 300.0}),
        FLOPS: (lambda f, b, t: 7 * f, {"flops": 7.0}),
        FLOPS_AND_BYTES: (lambda f, b, t: 7 * f + 3 * b, {"flops": 7.0, "bytes": 3.0}),
    }
    for name, (law, coefficients) in laws.items():
        rows = [row(t, law(f, b, t), flops=f, bytes=b) for f, b, t in amounts]
        found = fit_baselines(rows)["joules"][name]
        assert found == pytest.approx(coefficients)
        assert predict(found, rows[0]) == pytest.approx(rows[0].joules)


def test_a_baseline_minimises_relative_error():
    # 1 J and 300 J for one second each: watts are the relative mean, near the smaller.
    found = fit_baselines([row(1.0, 1.0), row(1.0, 300.0)])["joules"][MEAN_POWER]["seconds"]
    assert found == pytest.approx((1 + 1 / 300) / (1 + 1 / 300**2))


def test_seconds_have_no_power_baselines():
    found = fit_baselines([row(2.0, None, flops=1, bytes=1), row(3.0, None, flops=1, bytes=2)])
    assert found["joules"] == {}
    assert found["seconds"].keys() == {FLOPS, FLOPS_AND_BYTES}
    assert found["seconds"][FLOPS_AND_BYTES] == pytest.approx({"flops": 1.0, "bytes": 1.0})
    assert fit_baselines([]) == {"joules": {}, "seconds": {}}


def test_work_that_no_row_does_costs_nothing():
    found = fit_baselines([row(1.0, 2.0, bytes=4), row(2.0, 4.0, bytes=8)])["joules"]
    assert found[FLOPS] == {"flops": 0.0}
    assert found[FLOPS_AND_BYTES] == pytest.approx({"flops": 0.0, "bytes": 0.5})


def test_tdp_takes_the_power_limit_of_the_profile():
    device = load_device("h100")
    assert predict(tdp_baseline(device), replace(row(2.0, None), work={})) == 2 * device.value("power_limit")
