"""Meters on made-up counters: right joules, wrap-around, and a reason for every way to have none."""

import builtins
import sys
import types

import pytest

from szilard.cost_model import meter
from szilard.cost_model.meter import Meter, open_meter


@pytest.fixture(autouse=True)
def no_zeus(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "zeus":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """A powercap folder whose counters move while the code under test sleeps."""
    root = tmp_path / "powercap"
    files = {}
    for folder, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "dram"),
        ("intel-rapl:0:1", "core"),
        ("intel-rapl:1", "psys"),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / "name").write_text(f"{name}\n")
        (root / folder / "max_energy_range_uj").write_text("1000000\n")
        files[name] = root / folder / "energy_uj"
        files[name].write_text("900000\n")

    def add(name, microjoules):
        files[name].write_text(f"{(int(files[name].read_text()) + microjoules) % 1000000}\n")

    monkeypatch.setattr(meter.time, "sleep", lambda _: add("package-0", 7))
    return root, add


def test_packages_and_dram_are_read_and_overlapping_domains_are_not(rapl):
    root, add = rapl
    found = open_meter(powercap=root)
    assert found.status == "measured"
    assert "package-0" in found.reason
    assert "dram" in found.reason
    assert found.start is not None
    stop = found.start()
    for name, microjoules in (("package-0", 5000), ("dram", 300), ("core", 4000), ("psys", 9000)):
        add(name, microjoules)
    assert stop() == pytest.approx(5300e-6)


def test_a_counter_that_wraps_gives_no_negative_energy(rapl):
    root, add = rapl
    found = open_meter(powercap=root)
    assert found.start is not None
    stop = found.start()
    add("package-0", 250000)
    assert stop() == pytest.approx(0.25)


def test_joules_per_call_is_the_mean_of_a_window(rapl, monkeypatch):
    root, add = rapl
    found = open_meter(powercap=root)
    now = [0.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])

    def run():
        now[0] += 0.5
        add("package-0", 1000)

    assert found.joules_per_call(run, min_seconds=2.0) == pytest.approx(1e-3)
    assert now[0] == 2.5  # one call to warm up, four in the window


def test_no_powercap_folder_is_said(tmp_path):
    found = open_meter(powercap=tmp_path / "absent")
    assert (found.status, found.start) == ("unavailable", None)
    assert str(tmp_path / "absent") in found.reason
    assert "joules are modelled" in found.reason
    assert "zeus is not installed" in found.reason
    assert found.joules_per_call(lambda: None) is None


def test_an_empty_powercap_folder_is_said(tmp_path):
    found = open_meter(powercap=tmp_path)
    assert found.status == "unavailable"
    assert "no package domain" in found.reason


def test_a_counter_that_stands_still_is_not_called_a_measurement(rapl, monkeypatch):
    monkeypatch.setattr(meter.time, "sleep", lambda _: None)
    found = open_meter(powercap=rapl[0])
    assert found.status == "unavailable"
    assert "stand still" in found.reason


def test_a_counter_that_may_not_be_read_is_said(rapl):
    (rapl[0] / "intel-rapl:0" / "energy_uj").unlink()
    found = open_meter(powercap=rapl[0])
    assert found.status == "unavailable"
    assert "not readable" in found.reason
    assert "root" in found.reason


def test_without_zeus_a_card_has_no_meter_even_where_the_cpu_has_one(rapl):
    found = open_meter("cuda", rapl[0])
    assert found.status == "unavailable"
    assert "zeus" in found.reason


class Monitor:
    """The part of zeus.monitor.ZeusMonitor that the meter uses."""

    def __init__(self, gpu_indices=None, cpu_indices=None):
        self.gpu_indices = [0] if gpu_indices is None else gpu_indices
        self.cpu_indices = [0, 1] if cpu_indices is None else cpu_indices
        if self.gpu_indices and Monitor.fault:
            raise Monitor.fault

    fault: Exception | None = None

    def begin_window(self, key, sync_execution=True, restart=False):
        self.open = key

    def end_window(self, key, sync_execution=True):
        assert self.open == key
        cpu = dict.fromkeys(self.cpu_indices, 3.0) or None
        return types.SimpleNamespace(gpu_energy=dict.fromkeys(self.gpu_indices, 50.0), cpu_energy=cpu, dram_energy=None)


@pytest.fixture
def zeus(monkeypatch):
    monkeypatch.undo()

    class ZeusBaseError(Exception):
        pass

    modules = {name: types.ModuleType(name) for name in ("zeus", "zeus.monitor", "zeus.device", "zeus.device.exception")}
    modules["zeus.monitor"].ZeusMonitor = Monitor  # type: ignore[attr-defined]
    modules["zeus.device.exception"].ZeusBaseError = ZeusBaseError  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Monitor, "fault", None)
    return ZeusBaseError


def test_zeus_reads_only_the_device_that_works(zeus):
    def joules(kind):
        found = open_meter(kind)
        assert found.status == "measured"
        assert found.start is not None
        return found.start()()

    assert joules("cpu") == 6.0
    assert joules("cuda") == 50.0


def test_a_fault_inside_zeus_is_a_reason_not_a_crash(zeus, monkeypatch):
    monkeypatch.setattr(Monitor, "fault", zeus("driver too old"))
    found = open_meter("cuda")
    assert isinstance(found, Meter)
    assert found.status == "unavailable"
    assert "driver too old" in found.reason
