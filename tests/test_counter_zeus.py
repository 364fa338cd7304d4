"""Counters through zeus with its devices and NVML made up, nvml_sensors.py: only getters, the right parts, a clause for each fault."""

import sys
import types

import pytest

from szilard.cost_model import counter_zeus
from szilard.cost_model.counter import CounterFault
from szilard.cost_model.counter_zeus import open_zeus_card, open_zeus_processor, open_zeus_soc
from szilard.cost_model.meter import open_meter
from szilard.cost_model.nvml_sensors import others, throttle_names


class ZeusGPUInitError(Exception):
    pass


class ZeusGPUNotSupportedError(Exception):
    pass


class ZeusGPUNoPermissionError(Exception):
    pass


class NVIDIAGPU:
    """The getters of zeus's card that the meter uses; it has no setters, so that a call of one would fail."""

    def __init__(self, index=0, name="NVIDIA H200"):
        self.gpu_index, self.handle, self.name = index, f"handle {index}", name
        self.millijoules = 5_000_000
        self.fault = None

    def get_name(self):
        return self.name

    def get_total_energy_consumption(self):
        if self.fault is not None:
            raise self.fault
        return self.millijoules

    def get_instant_power_usage(self):
        return 412_345

    def get_gpu_temperature(self):
        return 61

    def get_power_management_limit(self):
        return 700_000


class AMDGPU(NVIDIAGPU):
    def __init__(self):
        super().__init__(0, "AMD Instinct MI300X")

    def get_instant_power_usage(self):
        raise ZeusGPUNotSupportedError("no current_socket_power")


class Nvml(types.ModuleType):
    """pynvml as far as it is used; `asked` are the names of the functions called."""

    NVML_CLOCK_SM = 1

    def __init__(self):
        super().__init__("pynvml")
        self.asked, self.mig, self.pids, self.reasons = [], (0, 0), [], 0x4

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)
        self.asked.append(name)
        found = {
            "nvmlDeviceGetClockInfo": 1755,
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
            "nvmlSystemGetDriverVersion": b"570.133.20",
            "nvmlDeviceGetMigMode": self.mig,
            "nvmlDeviceGetComputeRunningProcesses": [types.SimpleNamespace(pid=pid) for pid in self.pids],
        }[name]

        def answer(*arguments):
            if isinstance(found, Exception):
                raise found
            return found

        return answer


@pytest.fixture
def zeus(monkeypatch):
    """zeus.device with one card, no processor and no system on a chip; each can be replaced."""

    def none(what):
        def get():
            raise ZeusGPUInitError(f"no {what} here.\nsecond line")

        return get

    package, device = types.ModuleType("zeus"), types.ModuleType("zeus.device")
    package.device = device
    device.card = NVIDIAGPU()
    device.get_gpus = lambda: types.SimpleNamespace(gpus=[device.card, NVIDIAGPU(1, "NVIDIA L4")])
    device.get_cpus, device.get_soc = none("processor"), none("chip")
    device.nvml = Nvml()
    device.none = none
    for name, module in (("zeus", package), ("zeus.device", device), ("pynvml", device.nvml)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(counter_zeus.os, "getpid", lambda: 4321)
    return device


def test_a_card_is_read_in_joules_watts_and_degrees(zeus):
    meter = open_meter("cuda")
    assert (meter.status, meter.reason) == ("measured", "Joules are read from card 0 (NVIDIA H200) through zeus.")
    before = meter.counter.joules()
    zeus.card.millijoules += 250_000
    assert meter.counter.joules() - before == pytest.approx(250.0)
    assert meter.counter.watts() == pytest.approx(412.345)
    sensors = meter.counter.sensors()
    assert (sensors.temperature, sensors.clock, sensors.power_limit) == (61, 1755, 700.0)
    assert (sensors.throttle, sensors.driver, sensors.mig, sensors.others) == (("power cap",), "570.133.20", False, ())


def test_nothing_is_ever_set_on_a_card(zeus):
    counter = open_meter("cuda").counter
    counter.joules(), counter.watts(), counter.sensors()
    assert zeus.nvml.asked
    assert all(name.startswith(("nvmlDeviceGet", "nvmlSystemGet")) for name in zeus.nvml.asked)


def test_the_second_card_is_asked_for_by_its_number(zeus):
    assert "card 1 (NVIDIA L4)" in open_meter("cuda:1").reason
    missing = open_meter("cuda:2")
    assert missing.status == "unavailable"
    assert "zeus finds no card 2, only 2" in missing.reason


def test_a_module_says_that_its_processor_is_counted(zeus):
    zeus.card.name = "NVIDIA GH200 480GB"
    assert "the module of card 0" in open_meter("cuda").reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda zeus: setattr(zeus.nvml, "mig", (1, 1)), "split by MIG"),
        (lambda zeus: setattr(zeus.nvml, "pids", [4321, 99]), "shared with the process 99,"),
        (lambda zeus: setattr(zeus.card, "fault", ZeusGPUNotSupportedError("Not Supported")), "not supported by this device"),
        (lambda zeus: setattr(zeus.card, "fault", ZeusGPUNoPermissionError("Insufficient")), "may not be read by this user"),
        (lambda zeus: setattr(zeus.card, "fault", OSError("driver is gone")), "cannot be read (driver is gone)"),
        (lambda zeus: setattr(zeus, "get_gpus", zeus.none("card")), "zeus finds no card (no card here)"),
        (lambda zeus: setattr(zeus, "get_gpus", lambda: 1 / 0), "zeus finds no card (division by zero)"),
    ],
)
def test_every_way_to_have_no_card_is_a_sentence(zeus, change, words):
    change(zeus)
    meter = open_meter("cuda")
    assert meter.status == "unavailable"
    assert words in meter.reason
    assert meter.reason.endswith("joules are modelled.")
    assert "\n" not in meter.reason


def test_sensors_that_fail_are_left_out(zeus):
    zeus.nvml.mig, zeus.nvml.reasons, zeus.nvml.pids = OSError("Not Supported"), 0, [4321]
    sensors = open_meter("cuda").counter.sensors()
    assert (sensors.mig, sensors.throttle, sensors.others) == (False, (), ())


def test_a_counter_that_goes_backwards_is_a_fault_not_negative_joules(zeus):
    counter = open_zeus_card(0)
    counter.joules()
    zeus.card.millijoules = 7
    with pytest.raises(CounterFault, match=r"went backwards from 5000 to 0\.007 J"):
        counter.joules()


def test_a_card_of_another_maker_has_what_zeus_reads(zeus):
    zeus.card = AMDGPU()
    counter = open_meter("cuda").counter
    assert counter.watts() is None
    assert (counter.sensors().temperature, counter.sensors().clock, counter.sensors().device) == (
        61,
        None,
        "AMD Instinct MI300X",
    )
    assert zeus.nvml.asked == []


class Processor:
    def __init__(self, index, millijoules, dram):
        self.cpu_index, self.measurement = index, types.SimpleNamespace(cpu_mj=millijoules, dram_mj=dram)

    def get_total_energy_consumption(self):
        return self.measurement


def test_packages_and_their_dram_are_read_through_zeus_but_never_psys(zeus, tmp_path):
    for index, name in enumerate(("package-0", "package-1", "psys")):
        (tmp_path / f"intel-rapl:{index}").mkdir()
        (tmp_path / f"intel-rapl:{index}" / "name").write_text(name)
    cpus = [Processor(0, 1000.0, 100.0), Processor(1, 2000.0, None), Processor(2, 9000.0, None)]
    zeus.get_cpus = lambda: types.SimpleNamespace(cpus=cpus, rapl_dir=str(tmp_path))
    counter = open_zeus_processor()
    before = counter.joules()
    for cpu in cpus:
        cpu.measurement.cpu_mj += 500.0
    cpus[0].measurement.dram_mj += 50.0
    assert counter.joules() - before == pytest.approx(1.05)
    assert (
        open_meter("cpu", tmp_path / "absent").reason
        == "Joules are read from the processor's packages and memory through zeus."
    )
    zeus.get_cpus = lambda: types.SimpleNamespace(cpus=cpus[2:], rapl_dir=str(tmp_path))
    with pytest.raises(CounterFault, match="no package"):
        open_zeus_processor()


@pytest.mark.parametrize(
    ("parts", "joules"),
    [
        ({"cpu_energy_mj": 10.0, "gpu_energy_mj": 20.0, "total_energy_mj": 1000.0}, 1.0),
        ({"cpu_energy_mj": 400.0, "gpu_energy_mj": 200.0, "total_energy_mj": None}, 0.6),
        (
            {
                "cpu_total_mj": 100,
                "efficiency_cores_mj": [40, 40],
                "gpu_mj": 200,
                "gpu_sram_mj": 7,
                "dram_mj": 50,
                "ane_mj": None,
            },
            0.35,
        ),
    ],
)
def test_parts_of_a_chip_are_counted_once(zeus, parts, joules):
    found = types.SimpleNamespace(**dict.fromkeys(parts, 0))
    zeus.get_soc = lambda: types.SimpleNamespace(get_total_energy_consumption=lambda: found)
    found.__dict__.update({name: None if value is None else 0 for name, value in parts.items() if not isinstance(value, list)})
    counter = open_zeus_soc()
    assert counter.joules() == 0.0
    found.__dict__.update(parts)
    assert counter.joules() == pytest.approx(joules)
    assert counter.watts() is None


def test_a_chip_serves_as_the_meter_where_there_is_neither_card_nor_processor(zeus, tmp_path):
    zeus.get_gpus = zeus.none("card")
    found = types.SimpleNamespace(total_energy_mj=5.0)
    zeus.get_soc = lambda: types.SimpleNamespace(get_total_energy_consumption=lambda: found)
    for kind in ("cpu", "cuda"):
        assert open_meter(kind, tmp_path / "absent").reason == "Joules are read from the system on a chip through zeus."


def test_without_any_counter_both_ways_are_named(zeus, tmp_path):
    reason = open_meter("cpu", tmp_path / "absent").reason
    assert "absent on this machine" in reason
    assert "zeus finds no readable counter of the processor (no processor here)" in reason
    assert "chip" not in reason


def test_throttle_reasons_have_names():
    assert throttle_names(0) == ()
    assert throttle_names(0x4 | 0x20 | 0x40) == ("power cap", "thermal slowdown", "hardware thermal slowdown")
    assert throttle_names(0x1 | 0x800) == ("idle", "reason 0x800")


def test_other_processes_are_told_from_this_one():
    assert others([], 10) == ()
    assert others([10], 10) == ()
    assert others([10, 7, 12], 10) == (7, 12)
    here = {7, 12}.__contains__
    assert others([7], 10, here) == (7,)
    # A container sees the numbers of the host: one that is not known in here is this process itself.
    assert others([500_000], 10, here) == ()
    assert others([500_000, 7], 10, here) == (7,)
    assert others([500_000, 600_000], 10, here) == (600_000,)
    assert others([500_000, 10], 10, here) == (500_000,)
