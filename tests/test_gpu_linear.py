"""Tests of benchmarks/gpu_linear.py, gpu_linear_ways.py and gpu_linear_tuner.py: their logic on a CPU, with stand-ins for the GPU."""

import json

import pytest
import torch
from rich.console import Console

pytest.importorskip("triton")

from szilard.benchmarks import gpu_linear, gpu_linear_tuner, gpu_linear_ways
from szilard.benchmarks.gpu_linear_ways import BASE, Case, Operands
from szilard.cost_model.energy_reading import EnergyReading
from szilard.cost_model.meter import Meter
from szilard.kernels.linear_parts import tuning

CASES = (Case(1, 256), Case(3, 256))
NO_METER = Meter("unavailable", "No energy counter: this is a test.")
OURS = {"szilard int8", "szilard int4", "szilard fp8", "szilard fp8 x fp8"}


class Counted(Meter):
    """A meter on which each call costs one joule for every call before it."""

    def __init__(self):
        super().__init__("measured", "A stand-in.")

    def energies(self, runs, **options):
        for each in runs.values():
            each()
        return {name: EnergyReading("measured", "A stand-in.", at + 1.0, at + 0.5, at + 1.5) for at, name in enumerate(runs)}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What a run with no time, and then one with time, wrote."""
    path, found = tmp_path_factory.mktemp("gpu") / "gpu-linear.json", []
    for minutes in (-1.0, 5.0):
        gpu_linear.run(path, "cpu", minutes, NO_METER, Console(quiet=True), CASES)
        found.append(json.loads(path.read_text()) if path.exists() else None)
    return found


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for arguments in ([], ["--tune"], ["--device", "cpu"]):
        with pytest.raises(SystemExit, match="no CUDA device"):
            gpu_linear.main(arguments)


def test_a_run_keeps_to_its_time_and_the_next_one_does_all(done):
    assert done[0] is None
    assert list(done[1]["rows"]) == ["1 x 256 x 256", "3 x 256 x 256"]
    assert done[1]["label"].startswith("simulated")
    assert done[1]["peers"].startswith("torchao is ")


def test_every_way_is_judged_against_float64_and_ours_against_its_codes(done):
    for row in done[1]["rows"].values():
        assert {BASE, *OURS} <= set(row["seconds"])
        assert row["refused"] == {}
        assert row["errors"][BASE] < 0.004
        assert 0.003 < row["errors"]["szilard int8"] < 0.015
        assert 0.02 < 1.1 * row["errors"]["szilard fp8"] < row["errors"]["szilard fp8 x fp8"] < 0.05
        assert 0.05 < row["errors"]["szilard int4"] < 0.13
        assert set(row["errors of the kernels"]) == OURS
        for name in OURS - {"szilard fp8 x fp8"}:
            assert row["errors of the kernels"][name] < 0.004, name


def test_ways_are_compared_with_torch_and_with_memory(done):
    row = done[1]["rows"]["3 x 256 x 256"]
    assert row["times the base"]["szilard int4"] == pytest.approx(row["seconds"][BASE] / row["seconds"]["szilard int4"])
    wanted = (256 * 256 * 4.25 / 8 + 2 * 3 * 256 * 2) / done[1]["bandwidth"]
    assert row["memory seconds"]["szilard int4"] == pytest.approx(wanted)
    assert row["share of the roofline"]["szilard int4"] == pytest.approx(wanted / row["seconds"]["szilard int4"])
    assert set(row["dispatch"]) == OURS
    assert row["dispatch"]["szilard int4"].startswith("tiled kernel")


def test_joules_are_missing_with_a_reason_or_those_of_one_call(done):
    for row in done[1]["rows"].values():
        assert {spent["label"] for spent in row["joules"].values()} == {"unavailable"}
        assert all(spent["joules"] is None for spent in row["joules"].values())
        assert all("No energy counter" in spent["reason"] for spent in row["joules"].values())
    held = Operands(256, "cpu", "bfloat16", cold_bytes=4 * 256 * 256 * 2.0)
    found = gpu_linear.joules(CASES[0], held, Counted(), [BASE, "szilard int8"], None)
    assert len(held.made["szilard int8"]) == 2 * len(held.made[BASE]) == 8
    assert found[BASE] == {"joules": 0.25, "low": 0.125, "high": 0.375, "label": "measured", "reason": "A stand-in."}
    assert found["szilard int8"]["joules"] == 0.25


def test_what_is_done_is_not_done_again_and_is_shown(done, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_linear, "timed", None)
    monkeypatch.setattr(gpu_linear, "joules", None)
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(done[1]))
    assert gpu_linear.run(path, "cpu", 5.0, NO_METER, Console(quiet=True), CASES) == done[1]
    console = Console(width=200, record=True, quiet=True)
    console.print(gpu_linear.table(done[1]))
    assert gpu_linear.table(done[1]).row_count == sum(len(row["seconds"]) for row in done[1]["rows"].values())


def test_a_way_that_cannot_be_made_is_refused_with_its_reason(monkeypatch):
    def fails(weight):
        raise RuntimeError("no kernel of that")

    both = {BASE: gpu_linear_ways.forms()[BASE], "other": gpu_linear_ways.Form(8.0, fails, torch.nn.functional.linear)}
    monkeypatch.setattr(gpu_linear_ways, "forms", lambda: both)
    held = Operands(64, "cpu", "bfloat16", cold_bytes=1.0)
    assert held.refused == {"other": "no kernel of that"}
    assert list(held.runs(2)) == [BASE]


def test_the_cases_are_those_that_were_asked_for():
    assert {(case.rows, case.width) for case in gpu_linear.CASES} == {
        (rows, width) for rows in (1, 4, 16, 64, 256, 1024, 4096) for width in (4096, 8192, 14336)
    }
    assert set(gpu_linear.ROWS) == set(tuning.BUCKETS)


def timer(operands, asked, line):
    """As if two warps, tiles of 32 columns and as few parts as can be were the fastest, and a GEMV slower than tiles."""
    return abs(line["num_warps"] - 2) + abs(line["BLOCK_N"] - 32) + line["SPLIT_K"] + (100 if line["way"] == "gemv" else 1)


def test_the_tuner_writes_the_fastest_tiles_as_a_table_and_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "nvidia-toy.json"
    assert "0 new lines" in gpu_linear_tuner.tune(path, "cpu", -1.0, (256,), timer)
    assert not path.exists()
    moments = iter([0.0] * 4 + [1e9] * 9)
    said = gpu_linear_tuner.tune(path, "cpu", 1.0, (256,), timer, lambda: next(moments))
    assert "3 new lines; the next run begins with int8, 64 x 256" in said
    said = gpu_linear_tuner.tune(path, "cpu", 5.0, (256,), timer)
    assert said == "25 new lines, 28 in all."
    table = json.loads(path.read_text())
    assert "measured on" in table["label"]
    assert all(line["BLOCK_N"] == 32 and line["SPLIT_K"] == 1 and line["way"] == "tiled" for line in table["lines"])
    assert [line.get("rows") for line in table["lines"][:7]] == [1, 4, 16, 64, 256, 1024, None]
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.lines.cache_clear()
    found = tuning.dispatch("int4", 9999, 256, 256, 128, "bfloat16", "NVIDIA Toy", 100)
    tuning.lines.cache_clear()
    tuning.dispatch.cache_clear()
    assert (found.table, found.split, found.tiles["BLOCK_K"]) == ("nvidia-toy", 1, 64)


def test_the_tuner_asks_the_kernels_for_the_tiles_it_tries(monkeypatch):
    """On a CPU the kernels are stood in for: they only note what they were asked."""
    asked_for = []
    calls = {name: lambda x, *operands, **options: asked_for.append(options) or x for name in gpu_linear_tuner.CALLS}
    monkeypatch.setattr(gpu_linear_tuner, "CALLS", calls)
    held = Operands(256, "cpu", "bfloat16", cold_bytes=1.0)
    asked = {"kernel": "int4", "rows": 3, "K": 256, "N": 256, "group": 128, "dtype": "bfloat16"}
    (line,) = gpu_linear_tuner.starts(asked)
    assert gpu_linear_tuner.seconds_of(held, asked, {**line, "SPLIT_K": 2}) > 0
    assert {options["group"] for options in asked_for} == {128}
    assert {options["chosen"].split for options in asked_for} == {2}
