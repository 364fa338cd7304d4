"""`open_meter` on made-up counters: the right ones are read, and every way to have none has its sentence."""

import builtins
from dataclasses import replace

import pytest

from szilard.cost_model import counter_rapl, meter
from szilard.cost_model.clock import WallClock
from szilard.cost_model.counter import CounterFault, Sensors
from szilard.cost_model.counter_rapl import RaplCounter, open_rapl
from szilard.cost_model.errors import InputError
from szilard.cost_model.meter import Meter, open_meter
from szilard.cost_model.refusals import HOT, insist, refusal
from szilard.cost_model.simulated_card import SimulatedCard


@pytest.fixture(autouse=True)
def no_zeus(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "zeus":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


class Powercap:
    """A powercap folder, and a clock whose sleep moves the counter of the package as time does."""

    def __init__(self, root):
        self.root, self.files, self.time, self.per_second = root, {}, 0.0, 7.0
        names = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:0:1": "core", "intel-rapl:1": "psys"}
        for folder, name in names.items():
            (root / folder).mkdir(parents=True)
            (root / folder / "name").write_text(f"{name}\n")
            (root / folder / "max_energy_range_uj").write_text("1000000\n")
            self.files[name] = root / folder / "energy_uj"
            self.files[name].write_text("900000\n")

    def add(self, name, joules):
        self.files[name].write_text(f"{(int(self.files[name].read_text()) + round(joules * 1e6)) % 1000000}\n")

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        self.add("package-0", self.per_second * seconds)


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    found = Powercap(tmp_path / "powercap")
    monkeypatch.setattr(counter_rapl, "WallClock", lambda: found)
    return found


def test_packages_and_dram_are_read_and_overlapping_domains_are_not(powercap):
    found = open_meter(powercap=powercap.root)
    assert found.status == "measured"
    assert "package-0" in found.reason
    assert "dram" in found.reason
    before = found.counter.joules()
    for name, joules in (("package-0", 5e-3), ("dram", 3e-4), ("core", 4e-3), ("psys", 9e-3)):
        powercap.add(name, joules)
    assert found.counter.joules() - before == pytest.approx(5.3e-3)
    assert found.counter.watts() is None
    assert found.counter.sensors().temperature is None


def test_a_rapl_counter_that_wraps_gives_no_negative_energy(powercap):
    counter = open_rapl(powercap.root)
    before = counter.joules()
    for _ in range(9):
        powercap.add("package-0", 0.25)
        assert counter.joules() > before
        before, last = counter.joules(), before
    assert before - last == pytest.approx(0.25)


def test_a_counter_that_becomes_unreadable_is_a_fault(powercap):
    counter = open_rapl(powercap.root)
    powercap.files["dram"].unlink()
    with pytest.raises(CounterFault, match="no longer be read"):
        counter.joules()


def test_no_powercap_folder_is_said(tmp_path):
    found = open_meter(powercap=tmp_path / "absent")
    assert (found.status, found.counter) == ("unavailable", None)
    assert str(tmp_path / "absent") in found.reason
    assert "joules are modelled" in found.reason
    assert "zeus is not installed" in found.reason
    reading = found.energy(lambda: None)
    assert (reading.label, reading.joules, reading.reason) == ("unavailable", None, found.reason)
    assert reading.half_width is None


def test_an_empty_powercap_folder_is_said(tmp_path):
    found = open_meter(powercap=tmp_path)
    assert found.status == "unavailable"
    assert "no package domain" in found.reason


def test_a_counter_that_stands_still_is_not_called_a_measurement(powercap):
    powercap.per_second = 0.0
    found = open_meter(powercap=powercap.root)
    assert found.status == "unavailable"
    assert "stand still" in found.reason


def test_a_counter_that_may_not_be_read_is_said(powercap):
    powercap.files["package-0"].unlink()
    found = open_meter(powercap=powercap.root)
    assert found.status == "unavailable"
    assert "not readable" in found.reason
    assert "root" in found.reason


def test_without_zeus_a_card_has_no_meter_even_where_the_cpu_has_one(powercap):
    found = open_meter("cuda", powercap.root)
    assert found.status == "unavailable"
    assert "zeus" in found.reason


@pytest.mark.parametrize("kind", ["gpu", "cuda:x", "cpu:", ""])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(InputError, match="no meter"):
        open_meter(kind)


@pytest.mark.parametrize(
    ("sensors", "words"),
    [
        (Sensors(mig=True), "MIG"),
        (Sensors(others=(17,)), "shared with the process 17,"),
        (Sensors(others=(17, 18, 19, 20, 21)), "17, 18, 19, 20 and more"),
        *((Sensors(throttle=("power cap", reason)), rf"slowed down \({reason}\)") for reason in HOT),
    ],
)
def test_states_in_which_a_counter_must_not_be_believed(sensors, words):
    with pytest.raises(CounterFault, match=words):
        insist(sensors)


def test_a_capped_card_alone_is_not_refused():
    assert refusal(Sensors(throttle=("power cap", "idle", "sync boost"), temperature=85.0)) is None


def test_heat_is_no_reason_not_to_open_a_counter(monkeypatch):
    hot = SimulatedCard()
    hot.traits = replace(hot.traits, sensors=Sensors(throttle=HOT))
    monkeypatch.setattr(meter, "open_rapl", lambda powercap: hot)
    assert open_meter().status == "measured"


def test_the_wall_clock_watches_beside_the_work(powercap):
    clock, seen = WallClock(), []
    began = clock.now()
    with clock.watch(lambda: seen.append(clock.now()), 0.001):
        while len(seen) < 5:
            clock.sleep(0.001)
    assert seen == sorted(seen)
    assert began <= seen[0]
    clock.sleep(-1.0)
    count = len(seen)
    clock.sleep(0.01)
    assert len(seen) == count


def test_windows_on_the_wall_clock_give_the_power_of_a_counter_that_is_right():
    clock = WallClock()

    class Steady(RaplCounter):
        def __init__(self):
            self.where = "a steady counter"

        def joules(self):
            return 100.0 * (clock.now() // 0.004 * 0.004)

    options = {"half_width": 1.0, "least_seconds": 0.02, "warm_seconds": 0.02, "settle_seconds": 0.01, "most_seconds": 1.0}
    meter = Meter("measured", "A counter.", Steady())
    reading = meter.energy(lambda: clock.sleep(0.001), **options)
    assert reading.label == "measured"
    assert reading.joules / reading.seconds == pytest.approx(100.0, rel=0.5)
    assert len(reading.windows) >= 5
