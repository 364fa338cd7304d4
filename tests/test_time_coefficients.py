"""From the seconds that a hidden roofline takes, its rates, bandwidths and launches come back."""

import numpy as np
import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.fit import Estimate
from szilard.cost_model.joule_design import joule_points
from szilard.cost_model.time_coefficients import TimedOp, time_fit

DEVICE = load_device("h200")
KINDS = ("rate", "bandwidth", "utilisation", "launch_seconds")


def runs(truth, noise, seed=0):
    """The timed points of the design as they run on `truth`."""
    rng = np.random.default_rng(seed)
    found = []
    for point in joule_points(DEVICE):
        if point.timed:
            seconds = point.cost(truth).seconds * float(np.exp(noise * rng.standard_normal()))
            interval = Estimate(seconds, 0.99 * seconds, 1.01 * seconds)
            found.append(TimedOp(point.net.ops["op"].kind, point.cost, interval))
    return found


def hidden(seed):
    rng = np.random.default_rng(seed)
    keys = [key for key in DEVICE.coefficients if key.partition(".")[0] in KINDS]
    # Far from the power limit, which would hide some of the speeds.
    values = {key: DEVICE.value(key) * float(np.exp(0.15 * rng.standard_normal())) for key in keys}
    return DEVICE.with_values({**values, "power_limit": 5000.0})


@pytest.mark.parametrize("seed", range(4))
def test_the_roofline_of_a_hidden_card_comes_back(seed):
    truth = hidden(seed)
    found = time_fit(runs(truth, 0.0), DEVICE)
    values = {key: estimate.value for key, estimate in found.coefficients.items()}
    for key in ("bandwidth.memory", "launch_seconds"):
        assert values[key] == pytest.approx(truth.value(key), rel=0.02)
    for dtype in ("float32", "bfloat16.tensor", "float16.tensor", "int8.tensor", "float8.tensor"):
        # A rate and the share of it that kernels reach are only known together.
        reached = truth.value(f"rate.{dtype}") * truth.value("utilisation.matmul")
        assert values[f"rate.{dtype}"] == pytest.approx(reached, rel=0.15)
    fitted = DEVICE.with_values({**values, "power_limit": 5000.0})
    errors = [abs(run.cost(fitted).seconds / run.seconds.value - 1.0) for run in runs(truth, 0.0)]
    before = [abs(run.cost(DEVICE).seconds / run.seconds.value - 1.0) for run in runs(truth, 0.0)]
    assert np.mean(errors) < 0.5 * np.mean(before)
    assert np.median(errors) < 0.02


def test_an_interval_spans_what_its_runs_say():
    found = time_fit(runs(hidden(1), 0.05), DEVICE)
    for estimate in found.coefficients.values():
        assert 0.0 < estimate.low <= estimate.value <= estimate.high
    memory = found.coefficients["bandwidth.memory"]
    assert memory.high / memory.low > 1.05
    assert 0.0 < found.residual < 0.1


def test_what_no_run_waits_for_is_left_out_and_no_runs_are_an_error():
    copies = [run for run in runs(hidden(2), 0.0) if run.kind == "neg"]
    assert set(time_fit(copies, DEVICE).coefficients) <= {"bandwidth.memory", "bandwidth.cache", "launch_seconds"}
    with pytest.raises(ValueError, match="no runs"):
        time_fit([], DEVICE)
