"""Baselines are fitted fairly, and a model with a static term beats them where there is one."""

from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.baselines import (
    FLOPS,
    FLOPS_AND_BYTES,
    LOG,
    MEAN_POWER,
    features,
    fit_baselines,
    fits_of,
    predict,
    roofline,
    tdp_baseline,
)
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
        for fitted in (name, name + LOG):
            found = fit_baselines(rows)["joules"][fitted]
            assert found == pytest.approx(coefficients, rel=1e-4)
            assert predict(found, rows[0]) == pytest.approx(rows[0].joules, rel=1e-4)


def errors(baseline, rows):
    return np.array([predict(baseline, row) / row.joules for row in rows])


def test_a_baseline_has_the_least_error_of_its_kind_either_way():
    rng = np.random.default_rng(1)
    rows = [
        row(1.0, float(t), flops=f, bytes=b) for f, b, t in zip(*(np.exp(rng.normal(0, 2, 40)) for _ in range(3)), strict=True)
    ]
    found = fit_baselines(rows)["joules"]
    for ending, loss in (("", lambda ratio: np.abs(ratio - 1)), (LOG, lambda ratio: np.abs(np.log(ratio)))):
        best = loss(errors(found[FLOPS_AND_BYTES + ending], rows)).mean()
        for more in (0.8, 0.95, 1.05, 1.25):
            for feature in ("flops", "bytes"):
                other = {**found[FLOPS_AND_BYTES + ending]}
                other[feature] *= more
                assert loss(errors(other, rows)).mean() >= best * 0.995
    middle = found[FLOPS + LOG]["flops"]
    assert middle == pytest.approx(np.median([row.joules / features(row)["flops"] for row in rows]), rel=0.2)


def test_bytes_are_not_lost_where_costs_span_decades():
    """Launches that nobody counts make small rows dear: relative errors are least when next to nothing is predicted."""
    rows = [row(1.0, 1e-6 + 3e-10 * size, flops=1.0, bytes=size) for size in np.geomspace(1e1, 1e8, 15)]
    found = fit_baselines(rows)["joules"]
    assert found[FLOPS_AND_BYTES + LOG]["bytes"] == pytest.approx(3e-10, rel=0.5)
    best = fits_of(found)
    assert set(best) == {MEAN_POWER, FLOPS, FLOPS_AND_BYTES}
    assert best[FLOPS] == [found[FLOPS], found[FLOPS + LOG]]


def test_the_roofline_is_the_longest_of_what_overlaps_and_the_launches():
    device = load_device("h100")
    work = {"flop.float16.tensor": 1e12, "byte.memory": 1e9, "byte.cache": 1e9, "launch": 10.0}
    value = device.value
    one = replace(row(1.0, 1.0), work=work)
    launches = 10 * value("launch_seconds")
    assert roofline(device, one) == pytest.approx(1e12 / value("rate.float16.tensor") + launches)
    assert roofline(device, replace(one, work={**work, "byte.memory": 1e13})) == pytest.approx(
        1e13 / value("bandwidth.memory") + launches
    )
    # A dtype without units of its own is computed in the next wider one.
    odd = replace(one, work={"flop.int32": 1e12, "launch": 0.0})
    assert roofline(device, odd) == pytest.approx(1e12 / value(f"rate.{device.resolve('int32')}"))
    assert roofline(device, replace(one, work={"flop.complex64": 1.0})) is None


def test_seconds_have_no_power_baselines():
    found = fit_baselines([row(2.0, None, flops=1, bytes=1), row(3.0, None, flops=1, bytes=2)])
    assert found["joules"] == {}
    assert found["seconds"].keys() == {FLOPS, FLOPS_AND_BYTES, FLOPS + LOG, FLOPS_AND_BYTES + LOG}
    assert found["seconds"][FLOPS_AND_BYTES] == pytest.approx({"flops": 1.0, "bytes": 1.0})
    assert fit_baselines([]) == {"joules": {}, "seconds": {}}


def test_work_that_no_row_does_costs_nothing():
    found = fit_baselines([row(1.0, 2.0, bytes=4), row(2.0, 4.0, bytes=8)])["joules"]
    assert found[FLOPS] == {"flops": 0.0}
    assert found[FLOPS_AND_BYTES] == pytest.approx({"flops": 0.0, "bytes": 0.5})
    assert found[FLOPS_AND_BYTES + LOG] == pytest.approx({"flops": 0.0, "bytes": 0.5})


def test_tdp_takes_the_power_limit_of_the_profile():
    device = load_device("h100")
    assert predict(tdp_baseline(device), replace(row(2.0, None), work={})) == 2 * device.value("power_limit")
