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
    machine = Machine(lambda now: 1e-3)
    quiet = machine.quiet()
    assert quiet.wait()
    assert quiet.waited == pytest.approx(3e-3)


def test_a_disturbance_is_waited_out():
    machine = Machine(lambda now: 2e-3 if 2.0 < now < 2.4 else 1e-3)
    quiet = machine.quiet()
    machine.now = 2.1
    assert quiet.wait()
    assert 2.4 <= machine.now < 2.5


def test_patience_ends():
    machine = Machine(lambda now: 2e-3 if now > 2.0 else 1e-3)
    quiet = machine.quiet(patience=0.5)
    machine.now = 3.0
    assert not quiet.wait()
    assert machine.now == pytest.approx(3.5, abs=0.1)


def test_a_machine_that_was_slow_at_first_is_known_by_its_fastest_probe():
    machine = Machine(lambda now: 2e-3 if now < 2.0 else 1e-3)
    quiet = machine.quiet()
    assert quiet.fastest == pytest.approx(2e-3)
    machine.now = 2.5
    assert quiet.wait()
    assert quiet.fastest == pytest.approx(1e-3)


def test_the_real_probe_runs():
    with quiet_machine(patience=0.0) as quiet:
        quiet.wait()
    assert 0 < quiet.fastest < 1
