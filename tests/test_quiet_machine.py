"""Waiting for a quiet machine, on a clock of its own."""

import pytest

from szilard.rewriter.quiet_machine import QuietMachine, quiet_machine


class Machine:
    """A probe that takes `speed(now)` seconds on a clock that only it and sleep move."""

    def __init__(self, speed):
        self.now, self.speed = 0.0, speed

    def probe(self):
        self.now += self.speed(self.now)

    def quiet(self, patience=1.0):
        return QuietMachine(self.probe, patience, lambda: self.now, self.sleep)

    def sleep(self, seconds):
        self.now += seconds


def test_a_quiet_machine_is_not_waited_for():
    quiet = Machine(lambda now: 1e-3).quiet()
    assert quiet.wait() == pytest.approx(1e-3)
    assert quiet.waited == pytest.approx(3e-3)


def test_a_disturbance_is_waited_out():
    machine = Machine(lambda now: 2e-3 if 2.0 < now < 2.4 else 1e-3)
    quiet = machine.quiet()
    machine.now = 2.1
    assert quiet.wait() == pytest.approx(1e-3)
    assert 2.4 <= machine.now < 2.5


def test_patience_ends():
    machine = Machine(lambda now: 2e-3 if now > 2.0 else 1e-3)
    quiet = machine.quiet(patience=0.5)
    machine.now = 3.0
    assert quiet.disturbed(quiet.wait())
    assert machine.now == pytest.approx(3.5, abs=0.1)


def test_one_lucky_probe_does_not_make_all_others_disturbed():
    machine = Machine(lambda now: 0.5e-3 if now < 0.01 else 1e-3)
    quiet = machine.quiet()
    assert quiet.usual == pytest.approx(1e-3)


def test_a_run_is_judged_by_the_probes_on_both_its_sides():
    machine = Machine(lambda now: 2e-3 if now > 2.0 else 1e-3)
    quiet = machine.quiet()

    def run() -> str:
        machine.now = 3.0
        return "done"

    result, probe = quiet.between(run)
    assert result == "done"
    assert probe == pytest.approx(2e-3)
    assert quiet.disturbed(probe)


def test_only_laps_on_a_quiet_machine_count_if_there_are_enough():
    quiet = Machine(lambda now: 1e-3).quiet()
    assert quiet.undisturbed([5.0, 9.0, 6.0, 7.0], [1e-3, 2e-3, 1.1e-3, 1.05e-3]) == [5.0, 7.0, 6.0]
    assert quiet.undisturbed([5.0, 9.0, 6.0, 7.0], [4e-3, 2e-3, 3e-3, 1e-3]) == [7.0, 9.0, 6.0]


def test_the_real_probe_runs():
    with quiet_machine(patience=0.0) as quiet:
        quiet.wait()
    assert 0 < quiet.usual < 1
