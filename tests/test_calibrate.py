"""`szilard calibrate --device cpu`: fitted on timed kernels, resumable, honest about joules; timings are made up here.

Covers calibrate.py, calibrate_cpu.py, command_line_calibrate.py.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from szilard.cost_model.clock import WallClock
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.meter import Meter
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard
from szilard.cost_model.simulated_meter import SimulatedMeter
from szilard.rewriter import calibrate_cpu, calibrate_cpu_joules
from szilard.rewriter.calibrate import calibrate
from szilard.rewriter.command_line import app
from szilard.rewriter.microbenchmark_graph import Microbenchmark

from .few_microbenchmarks import KERNELS, benchmarks, unary, use


@pytest.fixture
def few(monkeypatch):
    """The names of what is timed: six views and six changes of sign, by a law."""
    return use(monkeypatch)


def test_the_profile_holds_the_laws_and_says_where_they_come_from(few, tmp_path):
    said: list[str] = []
    result = calibrate("cpu", tmp_path / "mine.json", passes=2, progress=said.append)
    device = load_device(tmp_path / "mine.json")
    law = device.coefficients["time.onnxruntime.neg.call"]
    assert law.value == pytest.approx(1e-6, rel=0.01)
    assert law.provenance == "measured"
    assert "microbenchmarks" in law.source
    laws = {key: one for key, one in device.coefficients.items() if key.startswith("time.")}
    truth = {"run.call": 1e-5, "view.call": 5e-7, "neg.call": 1e-6, "neg.near_byte": 1e-11}
    assert {key: one.value for key, one in laws.items()} == {
        f"time.onnxruntime.{key}": pytest.approx(value, rel=0.01) for key, value in truth.items()
    }
    assert all(one.low <= truth[key.removeprefix("time.onnxruntime.")] <= one.high for key, one in laws.items())
    assert device.name == "mine"
    assert device.coefficients["flop.float32"].provenance == "prior", "no counter here: joules stay priors"
    assert device.calibration["split_hash"] == result["split_hash"]
    assert "bert" in device.calibration["held_out"]
    assert any(result["split_hash"] in sentence for sentence in said), "the split is printed before the fit"
    assert not (tmp_path / "mine.json.part").exists()


def test_a_stopped_run_goes_on_where_it_was(few, tmp_path, monkeypatch):
    whole = calibrate_cpu.timed

    def stops(benchmark: Microbenchmark) -> float:
        if len(few) == 5:
            raise KeyboardInterrupt
        return whole(benchmark)

    monkeypatch.setattr(calibrate_cpu, "timed", stops)
    with pytest.raises(KeyboardInterrupt):
        calibrate("cpu", tmp_path / "mine.json", passes=1)
    assert not (tmp_path / "mine.json").exists()
    first = list(few)
    monkeypatch.setattr(calibrate_cpu, "timed", whole)
    calibrate("cpu", tmp_path / "mine.json", passes=1)
    assert len(few) == len(set(few)) == 12, "nothing is timed twice"
    assert few[: len(first)] == first


def test_who_interrupts_is_told_where_the_rows_are_and_how_to_go_on(few, tmp_path, monkeypatch):
    def stops(benchmark: Microbenchmark) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate_cpu, "timed", stops)
    done = CliRunner().invoke(app, ["calibrate", "--out", str(tmp_path / "mine.json")])
    assert done.exit_code == 130
    kept = tmp_path / "mine.json.part"
    last = done.stderr.splitlines()[-1]
    assert last == f"szilard: Interrupted; what was measured is in {kept}, and the same command goes on from there."
    assert list(tmp_path.iterdir()) == [kept]


def test_devices_and_files_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match="no device 'gpu'"):
        calibrate("gpu", tmp_path / "x.json")
    with pytest.raises(InputError, match="folder that exists"):
        calibrate("cpu", tmp_path / "missing" / "x.json")
    with pytest.raises(InputError, match="name a JSON file"):
        calibrate("cpu", tmp_path)
    with pytest.raises(InputError, match="cannot be written to /dev/null; name a JSON file"):
        calibrate("cpu", "/dev/null")


def test_the_command_prints_what_was_fitted(few, tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, ["calibrate", "--out", str(tmp_path / "mine.json"), "--passes", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["kernels"] == 3
    text = runner.invoke(app, ["calibrate", "--out", str(tmp_path / "mine.json"), "--passes", "1"])
    assert "--target" in text.stdout
    assert "joules" in text.stdout
    shown = runner.invoke(app, ["devices", "show", str(tmp_path / "mine.json")])
    assert "time.onnxruntime.neg.call" in shown.stdout


def test_rows_that_were_counted_otherwise_are_not_taken_up(few, tmp_path, monkeypatch):
    out = tmp_path / "mine.json"

    def stopped(after: int) -> None:
        whole = calibrate_cpu.timed

        def stops(benchmark: Microbenchmark) -> float:
            if len(few) == after:
                raise KeyboardInterrupt
            return whole(benchmark)

        with monkeypatch.context() as patch:
            patch.setattr(calibrate_cpu, "timed", stops)
            with pytest.raises(KeyboardInterrupt):
                calibrate("cpu", out, passes=1)
        few.clear()

    stopped(5)
    base = calibrate_cpu.with_caches(load_device("cpu"))
    other = base.with_values({"capacity.cache": 3 * base.value("capacity.cache")})
    with monkeypatch.context() as patch:
        patch.setattr(calibrate_cpu, "with_caches", lambda device: other)
        calibrate("cpu", out, passes=1)
    assert len(few) == 12, "the caches are others, and so is the work"
    few.clear()
    stopped(5)
    with monkeypatch.context() as patch:
        patch.setattr(calibrate_cpu, "microbenchmarks", lambda: (b for b in [*benchmarks(), unary(3, 77)]))
        calibrate("cpu", out, passes=1)
    assert len(few) == 13, "the design is another"


def test_a_folder_that_takes_no_file_is_told_before_anything_is_timed(few, tmp_path):
    with pytest.raises(InputError, match=r"json\.part cannot be written: File name too long; name a file"):
        calibrate("cpu", tmp_path / f"{'x' * 250}.json")
    assert few == []


def test_laps_leave_the_time_that_the_readings_of_a_counter_take(few, tmp_path, monkeypatch):
    now, law = [0.0], calibrate_cpu.timed

    def slow(benchmark: Microbenchmark) -> float:
        now[0] += 10.0
        return law(benchmark)

    monkeypatch.setattr(calibrate_cpu, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(calibrate_cpu, "timed", slow)
    monkeypatch.setattr(calibrate_cpu_joules, "KERNELS", KERNELS)
    silent = Meter("unavailable", "No energy counter: none is here.", None, WallClock())
    calibrate_cpu.calibrate_cpu(tmp_path / "a.json", silent, progress=lambda _: None)
    assert len(few) == 24, "two laps of 120 s fit 260 s"
    few.clear()
    now[0] = 0.0
    hot = replace(CardTraits().sensors, throttle=("thermal slowdown",))
    refused = SimulatedMeter(SimulatedCard(CardTraits(sensors=hot)))
    calibrate_cpu.calibrate_cpu(tmp_path / "b.json", refused, progress=lambda _: None)
    assert len(few) == 12, "11 readings need another 36 s"
