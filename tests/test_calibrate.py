"""`szilard calibrate --device cpu`: fitted on timed kernels, resumable, honest about joules; timings are made up here.

Covers calibrate.py, calibrate_cpu.py, calibrate_cpu_joules.py, command_line_calibrate.py.
"""

import json
from itertools import chain

import numpy as np
import pytest
from typer.testing import CliRunner

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.joule_fit import fit_joules
from szilard.cost_model.measurement import Measurement
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard
from szilard.cost_model.simulated_meter import SimulatedMeter
from szilard.rewriter import calibrate_cpu, calibrate_cpu_joules, microbenchmarks_elementwise
from szilard.rewriter.calibrate import calibrate
from szilard.rewriter.command_line import app
from szilard.rewriter.microbenchmark_graph import Chain, Microbenchmark
from szilard.rewriter.microbenchmarks import counted, microbenchmarks

LAW = {"Slice": 1e-6}


def unary(count: int, size: int) -> Microbenchmark:
    graph = Chain()
    x = graph.input(size)
    for _ in range(count):
        x = graph.node("Neg", x)
    return graph.done("unary", f"Neg {size} {count}", x)


@pytest.fixture
def few(monkeypatch):
    """Three views and six changes of sign, timed by a law: 10 us a run, 0.5 us a view, 1 us and 0.01 ns a byte for each Neg."""
    calls: list[str] = []

    def benchmarks():
        views = (
            b for count in (4, 40, 160) for b in microbenchmarks_elementwise._calls(count) if b.kernel in ("reshape", "squeeze")
        )
        return chain(views, (unary(count, size) for count in (2, 9) for size in (16, 1000, 100_000)))

    def timed(benchmark: Microbenchmark) -> float:
        calls.append(benchmark.name)
        nodes = benchmark.model.graph.node
        size = sum(array.nbytes for array in benchmark.feeds.values())
        return 1e-5 + sum(1e-6 + 2e-11 * size if node.op_type == "Neg" else LAW.get(node.op_type, 5e-7) for node in nodes)

    monkeypatch.setattr(calibrate_cpu, "microbenchmarks", benchmarks)
    monkeypatch.setattr(calibrate_cpu, "timed", timed)
    return calls


def test_the_profile_holds_the_laws_and_says_where_they_come_from(few, tmp_path):
    said: list[str] = []
    result = calibrate("cpu", tmp_path / "mine.json", passes=2, progress=said.append)
    device = load_device(tmp_path / "mine.json")
    law = device.coefficients["time.onnxruntime.neg.call"]
    assert law.value == pytest.approx(1e-6, rel=0.01)
    assert law.provenance == "measured"
    assert "microbenchmarks" in law.source
    assert device.value("time.onnxruntime.neg.near_byte") == pytest.approx(1e-11, rel=0.01)
    assert device.value("time.onnxruntime.run.call") == pytest.approx(1e-5, rel=0.01)
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


def test_devices_and_files_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match="no device 'gpu'"):
        calibrate("gpu", tmp_path / "x.json")
    with pytest.raises(InputError, match="folder that exists"):
        calibrate("cpu", tmp_path / "missing" / "x.json")
    with pytest.raises(InputError, match="name a JSON file"):
        calibrate("cpu", tmp_path)


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


def test_joules_that_the_readings_cannot_tell_apart_stay_priors_and_seconds_are_kept(few, tmp_path, monkeypatch):
    card = SimulatedCard(CardTraits(seed=1))

    def on_card(session: object, benchmark: Microbenchmark):
        return card.load(benchmark.name, [(1e-3, 50.0)])

    monkeypatch.setattr(calibrate_cpu_joules, "_call", on_card)
    monkeypatch.setattr(calibrate_cpu_joules, "KERNELS", ("unary", "reshape"))
    result = calibrate_cpu.calibrate_cpu(tmp_path / "mine.json", SimulatedMeter(card), passes=1, progress=lambda _: None)
    assert "left as priors" in result["joules"]
    assert "cannot tell" in result["joules"]
    device = load_device(tmp_path / "mine.json")
    assert device.coefficients["static"].provenance == "prior"
    assert device.coefficients["time.onnxruntime.neg.call"].provenance == "measured"


@pytest.mark.long
def test_the_shipped_readings_tell_joules_apart():
    """On a card that draws what hidden coefficients say, in seconds of the roofline at varied occupancy."""
    base, random = load_device("cpu"), np.random.default_rng(5)
    hidden = {key: value * random.uniform(0.6, 1.6) for key, value in base.values.items()}
    names = [f"{b.kernel}: {b.name}" for b in microbenchmarks() if b.kernel in calibrate_cpu_joules.KERNELS]
    chosen, rows = set(calibrate_cpu_joules._spread(names)), []
    for benchmark in microbenchmarks():
        if (name := f"{benchmark.kernel}: {benchmark.name}") in chosen:
            work = counted(benchmark, base, [8e6])["work"]
            busy = work.get("launch", 0) * 2e-6 + sum(amount for key, amount in work.items() if key != "launch") / 2e11
            seconds = random.uniform(1, 2) * (1e-5 + busy)
            truth = hidden["static"] * seconds + sum(hidden[key] * amount for key, amount in work.items())
            joules = truth * (1 + 0.01 * random.standard_normal())
            rows.append(
                Measurement(name, benchmark.kernel, "op", work, seconds, seconds, seconds, joules, joules, joules, "modelled")
            )
    found = fit_joules(rows, base)
    assert len(rows) == len(chosen) == 28
    assert found.condition < 30
    for key in ("flop.float32", "byte.memory", "static"):
        assert found.coefficients[key].low <= hidden[key] <= found.coefficients[key].high, key
