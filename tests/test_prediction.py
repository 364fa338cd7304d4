"""Predictions of a call: laws of kernels where there are any, the roofline elsewhere, the call itself once, and intervals around both."""

from dataclasses import replace

import pytest

from szilard.cost_model.device import Coefficient, Device, load_device, unit_of
from szilard.cost_model.price import price_net
from szilard.rewriter.prediction import around, predict

from .priced_nets import net_of
from .test_taken_branches import outer

CPU = load_device("cpu")
SHAPE = (16, 1000)
NET = net_of({"x": SHAPE, "a": SHAPE, "b": SHAPE}, [("neg", ["x"], ["a"]), ("other:Odd", ["a"], ["b"])])
CALL, NEG, NEG_BYTE = "time.onnxruntime.run.call", "time.onnxruntime.neg.call", "time.onnxruntime.neg.near_byte"


def calibrated(**values: float) -> Device:
    laws = {CALL: 1e-3, NEG: 2e-3, NEG_BYTE: 1e-8}
    table = {key: Coefficient(v, str(unit_of(key)), v / 2, v * 2, "measured", "A test.") for key, v in laws.items()}
    return replace(CPU, coefficients={**CPU.coefficients, **table}).with_values(values)


def test_without_laws_of_kernels_it_is_the_roofline():
    found = predict(NET, CPU, "onnxruntime")
    assert found.total == price_net(NET, CPU).total
    assert (found.total.label, found.table_share) == ("roofline", 0.0)
    assert found.seconds[0] < found.total.seconds < found.seconds[1]
    assert found.kernels["op0"] == "neg"


def test_laws_price_the_ops_they_know_and_the_call_is_added_once():
    device = calibrated()
    found = predict(NET, device, "onnxruntime")
    odd = price_net(NET, CPU).ops["op1"]
    assert found.ops["op0"].seconds == pytest.approx(2e-3 + 2 * 64e3 * 1e-8)
    assert (found.ops["op0"].label, found.ops["op1"].label) == ("table", "roofline")
    assert found.total.seconds == pytest.approx(1e-3 + found.ops["op0"].seconds + odd.seconds)
    dynamic = sum(cost.joules - cost.terms["static"] for cost in found.ops.values())
    assert found.total.joules == pytest.approx(dynamic + CPU.value("static") * found.total.seconds)
    assert sum(found.total.terms.values()) == pytest.approx(found.total.joules)
    assert found.table_share == pytest.approx(1 - odd.seconds / found.total.seconds)


def test_the_interval_is_that_of_the_laws():
    found = predict(NET, calibrated(), "onnxruntime")
    assert found.total.seconds / 2 < found.seconds[0] < found.total.seconds < found.seconds[1] < found.total.seconds * 2
    # Three laws drawn each for itself: their sum is surer than any of them.
    assert found.seconds[1] / found.seconds[0] < 3.9
    assert found.joules[0] < found.total.joules < found.joules[1]


def test_laws_of_another_runtime_do_not_count():
    assert predict(NET, calibrated(), "torch").total == price_net(NET, CPU).total


def test_ops_of_taken_branches_are_ops_of_the_prediction_and_cost_the_same_together():
    device = calibrated()
    found = predict(outer(), device, "onnxruntime")
    assert list(found.ops) == ["then_0", "else_1", "op2"]
    assert found.ops["else_1"].seconds == pytest.approx(2e-3 + 160 * 1e-8)


def test_an_interval_is_widened_to_hold_its_value():
    assert around((2.0, 3.0), 1.0) == (1.0, 3.0)
    assert around((2.0, 3.0), 4.0) == (2.0, 4.0)
    assert around((2.0, 3.0), 2.5) == (2.0, 3.0)
