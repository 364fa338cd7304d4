"""Seconds of ops: sums over ops call by call, and how many calls are profiled."""

import pytest

from szilard.rewriter.op_times import FEWEST_RUNS, MOST_EVENTS, MOST_RUNS, OpTimes, runs_for


def test_ops_are_added_within_each_call():
    times = OpTimes({"a": (1.0, 5.0, 3.0), "b": (10.0, 1.0, 30.0)}, 0.0, "")
    assert times.timing(["a", "b"]).samples == (11.0, 6.0, 33.0)
    assert times.timing(["a", "b", "unknown"]).median == 11.0
    assert times.timing(["a"]).median == 3.0
    with pytest.raises(ValueError, match="at least one sample"):
        times.timing(["unknown"])


def test_long_calls_and_many_ops_are_profiled_less_often():
    assert runs_for(1e-4, 50) == MOST_RUNS
    assert runs_for(1e-4, 1000) == MOST_EVENTS // 1000
    assert runs_for(0.2, 50) == 15
    assert runs_for(60.0, 10**6) == FEWEST_RUNS
