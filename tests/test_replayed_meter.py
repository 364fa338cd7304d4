"""A recording of measurements read as a meter: what was measured is "replayed", what was modelled stays so."""

import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.measurement import Measurement, write_measurements
from szilard.cost_model.replayed_meter import ReplayedMeter


def row(config, joules, label="measured", **more):
    low, high = (None, None) if joules is None else (joules * 0.99, joules * 1.01)
    work = {"flop.float32": 1e9}
    return Measurement(config, "bert", "model", work, 0.01, 0.0099, 0.0101, joules, low, high, label, **more)


@pytest.fixture
def recorded(tmp_path):
    def write(*rows):
        write_measurements(tmp_path / "rows.csv", rows)
        return ReplayedMeter(tmp_path / "rows.csv")

    return write


def forbidden():
    raise AssertionError("a recording runs nothing")


def test_recorded_joules_come_back_with_their_interval_and_state(recorded):
    sensors = {"temperature": 61.0, "clock": 1755.0, "throttle": "power cap; sync boost", "device": "H200", "driver": "570"}
    meter = recorded(row("minilm", 3.0, **sensors), row("other", 5.0))
    reading = meter.energy(forbidden, name="minilm", idle_watts=100.0)
    assert (meter.status, reading.label, reading.joules) == ("replayed", "replayed", 3.0)
    assert (reading.low, reading.high, reading.seconds) == (pytest.approx(2.97), pytest.approx(3.03), 0.01)
    assert reading.static_joules == pytest.approx(1.0)
    assert "rows.csv" in reading.reason
    assert "H200" in reading.reason
    assert (reading.log.after.temperature, reading.log.after.clock, reading.log.after.driver) == (61.0, 1755.0, "570")
    assert reading.log.after.throttle == ("power cap", "sync boost")


def test_repeats_are_averaged_and_their_intervals_joined(recorded):
    reading = recorded(row("minilm", 3.0), row("minilm", 3.2)).energy(forbidden, name="minilm")
    assert reading.joules == pytest.approx(3.1)
    assert (reading.low, reading.high) == (pytest.approx(2.97), pytest.approx(3.232))


def test_a_recording_of_modelled_joules_is_not_promoted(recorded):
    meter = recorded(row("real", 3.0), row("simulated", 3.0, "modelled"), row("again", 3.0, "replayed"))
    readings = meter.energies(dict.fromkeys(("real", "simulated", "again"), forbidden))
    assert {name: reading.label for name, reading in readings.items()} == {
        "real": "replayed",
        "simulated": "modelled",
        "again": "replayed",
    }
    assert meter.status == "modelled"


def test_what_was_not_recorded_is_unavailable(recorded):
    meter = recorded(row("real", 3.0), row("cold", None, "unavailable", reason="There was no counter."))
    absent, cold = (meter.energy(forbidden, name=name) for name in ("absent", "cold"))
    assert (absent.label, absent.joules) == ("unavailable", None)
    assert absent.reason.endswith("has no row with the config 'absent'; it has joules of real.")
    assert (cold.label, cold.reason) == ("unavailable", "There was no counter.")


def test_a_recording_without_joules_is_unavailable(recorded):
    meter = recorded(row("cold", None, "unavailable"))
    assert meter.status == "unavailable"
    assert meter.energy(forbidden, name="cold").reason == meter.reason


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        ReplayedMeter(tmp_path / "absent.csv")
