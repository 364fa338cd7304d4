"""From the seconds that a hidden roofline takes, its rates, bandwidths and launches come back."""

import numpy as np
import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.fit import Estimate
from szilard.cost_model.joule_design import joule_points
from szilard.cost_model.time_coefficients import TimedOp, time_fit

DEVICE = load_device("h200")
UNITS = ("float32", "bfloat16.tensor", "float16.tensor")
KINDS = ("rate", "bandwidth", "utilisation", "launch_seconds")


def runs(truth, noise, seed=0, kinds=0.0):
    """The timed points of the design as they run on `truth`, single ones slower or faster by a relative sd of `noise` and all of a kind
    by one of `kinds`. Their seconds are read without doubt, as on a simulated card."""
    rng = np.random.default_rng(seed)
    found, speeds = [], {}
    for point in joule_points(DEVICE):
        if point.timed:
            kind = point.net.ops["op"].kind
            speed = speeds.setdefault(kind, kinds * rng.standard_normal()) + noise * rng.standard_normal()
            seconds = point.cost(truth).seconds * float(np.exp(speed))
            found.append(TimedOp(kind, point.cost, Estimate(seconds, seconds, seconds)))
    return found


def hidden(seed):
    rng = np.random.default_rng(seed)
    # No run of the design crosses a link.
    keys = [key for key in DEVICE.coefficients if key.partition(".")[0] in KINDS and key != "bandwidth.link"]
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


def test_nine_in_ten_intervals_hold_the_truth():
    covered, widths = {}, []
    for seed in range(20):
        truth = hidden(seed)
        found = time_fit(runs(truth, 0.05, seed, kinds=0.1), DEVICE).coefficients
        # Of a rate only the share that products reach is seen, and another share only beside such a rate.
        reached = truth.value("utilisation.matmul") / found["utilisation.matmul"].value
        share = np.median([truth.value(f"rate.{unit}") / found[f"rate.{unit}"].value for unit in UNITS])
        for key, estimate in found.items():
            assert 0.0 < estimate.low < estimate.value < estimate.high
            widths.append((estimate.high - estimate.low) / 2 / estimate.value)
            known = truth.value(key) * {"rate": reached, "utilisation": share}.get(key.partition(".")[0], 1.0)
            if key not in ("utilisation.matmul", "utilisation.elementwise"):
                covered.setdefault(key, []).append(estimate.low <= known <= estimate.high)
    assert len(covered) == 10
    assert np.mean([hit for hits in covered.values() for hit in hits]) >= 0.9
    assert min(np.mean(found) for found in covered.values()) >= 0.75
    assert np.median(widths) < 0.35


def test_a_coefficient_that_few_kinds_wait_for_is_known_less_well():
    found = time_fit(runs(hidden(1), 0.05, kinds=0.1), DEVICE)
    width = {key: np.log(estimate.high / estimate.low) for key, estimate in found.coefficients.items()}
    assert width["bandwidth.memory"] < 0.7 * width["launch_seconds"] < 0.9 * width["rate.float32"]
    assert found.condition is None
    assert 0.0 < found.residual < 0.1


def test_seconds_that_are_read_poorly_widen_an_interval():
    sure = runs(hidden(1), 0.0)
    poor = [TimedOp(run.kind, run.cost, Estimate(s := run.seconds.value, 0.8 * s, 1.25 * s)) for run in sure]
    memory = [time_fit(each, DEVICE).coefficients["bandwidth.memory"] for each in (sure, poor)]
    assert memory[0].high / memory[0].low < 1.1
    assert memory[1].high / memory[1].low > 1.25 / 0.8


def test_what_no_run_waits_for_is_left_out_and_no_runs_are_an_error():
    copies = [run for run in runs(hidden(2), 0.0) if run.kind == "neg"]
    assert set(time_fit(copies, DEVICE).coefficients) <= {"bandwidth.memory", "bandwidth.cache", "launch_seconds"}
    with pytest.raises(ValueError, match="no runs"):
        time_fit([], DEVICE)
