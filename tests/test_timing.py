"""Interleaving, batching and intervals of times; no test asserts a duration."""

import math
import random

import pytest

from szilard.cost_model import timing
from szilard.cost_model.timing import measure_interleaved, median_interval, ratio_interval, timing_of


class Clock:
    """A clock that only moves when work is done."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def work(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_rounds_alternate_their_order(clock):
    found = measure_interleaved({name: clock.work(name, 1.0) for name in "abc"}, rounds=3, warmups=2)
    assert "".join(clock.calls) == "aaa" + "bbb" + "ccc" + "abc" + "cba" + "abc"
    assert {len(each.samples) for each in found.values()} == {3}


def test_fast_callables_are_batched_and_still_give_seconds_of_one_call(clock):
    found = measure_interleaved({"fast": clock.work("f", 2.0**-10), "slow": clock.work("s", 0.5)}, rounds=4, min_seconds=0.01)
    assert found["fast"].median == pytest.approx(2.0**-10)
    assert found["slow"].median == pytest.approx(0.5)
    assert clock.calls.count("f") == 3 + 4 * math.ceil(0.01 * 2**10)
    assert clock.calls.count("s") == 3 + 4


def test_work_that_is_only_queued_is_waited_for(clock):
    queued = []

    def synchronise():
        clock.now += sum(queued)
        queued.clear()

    found = measure_interleaved({"card": lambda: queued.append(0.25)}, rounds=3, min_seconds=1.0, synchronise=synchronise)
    assert found["card"].samples == (0.25,) * 3
    assert not queued


def test_drift_favours_neither_side(clock):
    def drifting(name):
        def run():
            clock.now += 1.0 + 0.2 * len(clock.calls)
            clock.calls.append(name)

        return run

    found = measure_interleaved({"a": drifting("a"), "b": drifting("b")}, rounds=8)
    ratio, low, high = ratio_interval(found["a"].samples, found["b"].samples)
    assert ratio == pytest.approx(1.0, abs=0.02)
    assert low < 1.0 < high


def test_at_least_one_round_and_one_sample():
    with pytest.raises(ValueError, match="rounds"):
        measure_interleaved({"a": lambda: None}, rounds=0)
    with pytest.raises(ValueError, match="at least one sample"):
        timing_of([])


def test_a_fault_of_the_callable_is_not_hidden():
    def broken():
        raise OSError("no such kernel")

    with pytest.raises(OSError, match="no such kernel"):
        measure_interleaved({"a": broken})


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Ranks from tables of the sign test, two-sided 95 %, counted from one.
    [(1, 1, 1), (2, 1, 2), (5, 1, 5), (6, 1, 6), (9, 2, 8), (10, 2, 9), (15, 4, 12), (20, 6, 15), (25, 8, 18), (50, 18, 33)],
)
def test_ranks_are_those_of_the_sign_test(count, low, high):
    samples = list(range(1, count + 1))
    random.Random(count).shuffle(samples)
    assert median_interval(samples) == (low, high)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    source = random.Random(3)
    held = 0
    for _ in range(600):
        samples = [source.lognormvariate(0.0, 1.5) for _ in range(15)]  # true median 1, heavy tail
        low, high = median_interval(samples)
        held += low <= 1.0 <= high
    assert held / 600 > 0.94


def test_timing_holds_its_samples_and_median():
    found = timing_of([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.samples) == (2.0, 1.0, 3.0, (3.0, 1.0, 2.0))


def test_ratios_are_paired_by_round():
    slow_rounds = [1.0, 10.0, 1.0, 10.0, 1.0, 10.0, 1.0]
    ratio, low, high = ratio_interval([0.5 * s for s in slow_rounds], slow_rounds)
    assert (ratio, low, high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("a", "b", "words"), [([1.0], [1.0, 2.0], "equally many"), ([], [], "one sample"), ([1.0], [0.0], "positive")]
)
def test_ratios_of_what_cannot_be_paired_are_refused(a, b, words):
    with pytest.raises(ValueError, match=words):
        ratio_interval(a, b)
