"""Ops and classes beside their predictions: errors only where the clock resolves them, and medians that do not hide cancelling ones."""

import pytest

from szilard.cost_model.device import load_device
from szilard.rewriter.op_table import class_rows, op_rows, op_summary
from szilard.rewriter.op_times import OpTimes
from szilard.rewriter.prediction import predict

from .priced_nets import net_of

CPU = load_device("cpu")
SHAPE = (64, 3000)
NET = net_of(
    dict.fromkeys(("x", "a", "b", "c", "d"), SHAPE),
    [("neg", ["x"], ["a"]), ("neg", ["a"], ["b"]), ("exp", ["b"], ["c"]), ("reshape", ["c"], ["d"])],
)
PREDICTION = predict(NET, CPU, "onnxruntime")
NEG = PREDICTION.ops["op0"].seconds
EXP = PREDICTION.ops["op2"].seconds


def times(**seconds: float) -> OpTimes:
    """Three calls: one slower and one faster than `seconds`."""
    return OpTimes({op: (1.5 * s, s, 0.5 * s) for op, s in seconds.items()}, 2e-6, "a clock")


def test_each_op_has_its_own_error_and_joules_at_its_measured_seconds():
    rows = {row["id"]: row for row in op_rows(PREDICTION, times(op0=2 * NEG, op2=EXP / 2))}
    assert set(rows) == {"op0", "op2"}, "an op without a time has no row"
    assert rows["op0"]["error"] == pytest.approx(-0.5)
    assert rows["op2"]["error"] == pytest.approx(1.0)
    assert (rows["op0"]["low"], rows["op0"]["high"]) == (NEG, 3 * NEG)
    assert (rows["op0"]["kind"], rows["op0"]["kernel"], rows["op0"]["label"]) == ("neg", "neg", "roofline")
    dearer = rows["op0"]["joules_modelled"] - rows["op0"]["joules_predicted"]
    assert dearer == pytest.approx(CPU.value("static") * NEG)


def test_an_op_that_the_clock_cannot_resolve_has_no_error():
    rows = {row["id"]: row for row in op_rows(PREDICTION, times(op0=1.9e-6, op1=2.1e-6, op3=-1e-7))}
    assert rows["op0"]["error"] is None
    assert rows["op1"]["error"] is not None
    assert (rows["op3"]["measured"], rows["op3"]["low"]) == (0.0, 0.0)


def test_classes_add_up_call_by_call_and_come_longest_first():
    rows = class_rows(PREDICTION, times(op0=NEG, op1=3 * NEG, op2=NEG, op3=0.0))
    assert [(row["kind"], row["ops"]) for row in rows] == [("neg", 2), ("exp", 1), ("reshape", 1)]
    assert rows[0]["measured"] == pytest.approx(4 * NEG)
    assert [row["share"] for row in rows] == pytest.approx([0.8, 0.2, 0.0])
    assert rows[0]["error"] == pytest.approx(-0.5)
    assert rows[0]["work"]["launch"] == 2
    assert rows[2]["label"] == "roofline", "seconds of nothing were not measured"


def test_errors_that_cancel_are_seen_in_the_median_and_not_in_the_sum():
    measured = times(op0=1.5 * NEG, op1=NEG / 2, op2=EXP)
    found = op_summary(measured, op_rows(PREDICTION, measured))
    assert found["predicted"] == pytest.approx(2 * NEG + EXP)
    assert found["sum"] == pytest.approx(2 * NEG + EXP)
    assert found["error"] == pytest.approx(0.0)
    assert found["median_error"] == pytest.approx(1 / 3)
    assert (found["ops"], found["judged"], found["judged_share"], found["calls"]) == (3, 3, 1.0, 3)
    assert (found["added"], found["how"]) == (2e-6, "a clock")


def test_nothing_to_judge_is_no_error():
    measured = times(op0=1e-7)
    found = op_summary(measured, op_rows(PREDICTION, measured))
    assert (found["judged"], found["median_error"], found["judged_share"]) == (0, None, 0.0)
    assert op_summary(times(), [])["error"] is None
