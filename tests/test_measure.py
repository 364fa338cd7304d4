"""Measured beside predicted, labels that never claim a counter that is not there, ops beside the whole, and two models in one run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from szilard.cost_model.device import Coefficient, load_device, unit_of
from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Budget, Phase, Plan, Workload
from szilard.cost_model.timing import Timing
from szilard.rewriter import measure as measure_module
from szilard.rewriter import subject
from szilard.rewriter.measure import measure
from szilard.rewriter.measured_rows import measured_rows, save_rows

from .product_models import FEATURES, counter, products, reading, written_models

MATMUL = ("call", "flop", "near_byte", "cached_weight_byte")
"""What the seconds of a matrix product are linear in."""


@pytest.fixture
def models(tmp_path, monkeypatch):
    return written_models(tmp_path, monkeypatch)


def test_measured_seconds_stand_beside_the_prediction(models):
    runs = measure(models.write("m.onnx", products()), workload=["3x33:1", "7x33:1"], rounds=5)["runs"]
    assert [run["workload"] for run in runs] == ["3x33", "7x33"]
    for run in runs:
        seconds, joules = run["seconds"], run["joules"]
        assert 0 < seconds["low"] <= seconds["measured"] <= seconds["high"]
        assert seconds["predicted"] > 0
        assert seconds["predicted_from"] == "roofline"
        assert joules["measured"] is None
        assert (joules["label"], joules["unavailable"]) == ("modelled", "There is no counter.")
        assert joules["modelled"] > 0


def test_a_counter_makes_joules_measured(models, monkeypatch):
    kinds = []
    monkeypatch.setattr(measure_module, "open_meter", lambda kind: kinds.append(kind) or counter(0.25))
    (run,) = measure(models.write("m.onnx", products()), rounds=5)["runs"]
    joules = run["joules"]
    assert "unavailable" not in joules
    assert (joules["label"], joules["measured"]) == ("measured", 0.25)
    assert (joules["low"], joules["high"]) == (0.225, pytest.approx(0.275))
    assert joules["log"]["temperature"] == 41.0
    assert (joules["log"]["throttle"], joules["log"]["driver"]) == (["power cap"], "550.1")
    assert kinds == ["cpu"]
    cpu = load_device("cpu")
    assert joules["static"]["as_run"] == pytest.approx(1.0 * cpu.value("static")), (
        "idle watts for the seconds of the counter's windows"
    )
    assert joules["static"]["predicted"] == pytest.approx(cpu.value("static") * run["seconds"]["predicted"])
    assert joules["static"]["provenance"] == "prior"


def test_what_the_profile_predicts_has_an_interval_and_every_op_a_row(models):
    (run,) = measure(models.write("m.onnx", products(3)), workload=["9x33"], rounds=5)["runs"]
    for quantity in ("seconds", "joules"):
        promise = run[quantity]["from_profile"]
        assert promise["low"] < promise["value"] < promise["high"]
        assert promise["value"] == run[quantity]["predicted"]
    joules = run["joules"]
    assert joules["modelled_low"] < joules["modelled"] < joules["modelled_high"]
    assert joules["static"]["as_run"] == pytest.approx(load_device("cpu").value("static") * run["seconds"]["measured"])
    assert joules["provenance"] == {"prior": pytest.approx(1.0)}
    assert 0 < run["floors"]["landauer"] < run["floors"]["landauer_stored"] < joules["predicted"]
    assert run["floors"]["memory_bytes"] <= run["floors"]["core_bytes"] <= run["moved"]["cache"]
    watts = (joules["modelled"] - joules["predicted"]) / (run["seconds"]["measured"] - run["seconds"]["predicted"])
    assert watts == pytest.approx(load_device("cpu").value("static"))
    assert sorted(row["kind"] for row in run["ops"]) == ["matmul"] * 3 + ["tanh"] * 3
    assert {row["kind"]: row["ops"] for row in run["classes"]} == {"matmul": 3, "tanh": 3}
    assert run["summary"]["ops"] == 6
    assert run["summary"]["predicted"] == pytest.approx(run["seconds"]["predicted"])
    assert run["work"]["flop.float32"] > 3 * 2 * 9 * FEATURES**2
    assert (run["config"], run["runtime"]) == ("m onnxruntime 9x33", "onnxruntime")


def test_joules_of_an_earlier_run_are_replayed_by_config(models, monkeypatch, tmp_path):
    path = models.write("m.onnx", products())
    monkeypatch.setattr(measure_module, "open_meter", lambda kind: counter(0.25))
    save_rows(tmp_path / "rows.csv", measured_rows(measure(path, workload=["3x33"], rounds=5), "toy"))

    def absent(kind):
        raise AssertionError("a replay opens no counter")

    monkeypatch.setattr(measure_module, "open_meter", absent)
    known, unknown = measure(path, workload=["3x33", "7x33"], rounds=5, replay=tmp_path / "rows.csv")["runs"]
    assert (known["joules"]["measured"], known["joules"]["label"]) == (0.25, "replayed")
    assert known["joules"]["log"]["driver"] == "550.1"
    assert known["seconds"]["measured"] < 0.1
    assert (unknown["joules"]["measured"], unknown["joules"]["label"]) == (None, "modelled")
    assert (
        "no row with the config 'm onnxruntime 7x33'; it has joules of m onnxruntime 3x33." in unknown["joules"]["unavailable"]
    )


def test_recorded_seconds_that_differ_from_these_are_flagged():
    log = replace(reading(0.25, 0.25), label="replayed", seconds=1.0)
    for median, flagged in ((0.95, False), (0.5, True), (2.0, True)):
        flags = measure_module._measured(log, Timing(median, median, median, (median,)))["log"]["flags"]
        assert flags == ([f"The recorded calls took 1.00 s each, these {median * 1000:.0f} ms."] if median < 0.9 else flags)
        assert bool(flags) == flagged
    assert not measure_module._measured(replace(log, label="measured"), Timing(0.5, 0.5, 0.5, (0.5,)))["log"]["flags"]


def test_shapes_of_one_name_cannot_be_told_apart(models):
    phases = tuple(Phase("same", {"x": (rows, FEATURES)}) for rows in (3, 5))
    with pytest.raises(InputError, match="Two shapes of the workload are called same"):
        measure(models.write("m.onnx", products()), workload=Workload(phases))


def test_the_roofline_is_said_to_be_one_and_so_is_what_has_no_law(models, tmp_path):
    path = models.write("m.onnx", products(1))
    found = measure(path, rounds=3)
    assert found["notes"] == [
        "The profile cpu holds no measured times of onnxruntime's kernels, so seconds are the roofline's; `szilard calibrate` makes a "
        "profile that has them."
    ]
    law = {f"time.onnxruntime.matmul.{feature}": 1e-5 if feature == "call" else 0.0 for feature in MATMUL}
    law = {key: Coefficient(value, str(unit_of(key)), value, 2 * value, "measured", "A test.") for key, value in law.items()}
    cpu = load_device("cpu")
    profile = tmp_path / "mine.json"
    profile.write_text(json.dumps(replace(cpu, name="mine", coefficients={**cpu.coefficients, **law}).to_json()))
    found = measure(path, rounds=3, target=profile)
    assert found["notes"] == ["Without a measured time in the profile mine, so by the roofline: tanh."]
    (run,) = found["runs"]
    assert {row["kind"]: row["label"] for row in run["ops"]} == {"matmul": "table", "tanh": "roofline"}
    assert 0 < run["seconds"]["from_profile"]["table_share"] < 1


def test_two_models_run_in_turn_and_the_sign_of_their_difference_is_judged(models):
    small, large = models.write("small.onnx", products(1)), models.write("large.onnx", products(40))
    found = measure(large, workload=["64x33"], rounds=9, against=small)
    assert [run["config"] for run in found["runs"]] == ["small onnxruntime 64x33", "large onnxruntime 64x33"]
    (difference,) = found["differences"]
    assert difference["predicted"] > 10
    assert difference["measured"] > 1.5
    assert difference["low"] <= difference["measured"] <= difference["high"]
    with pytest.raises(InputError, match=r"names .*small\.onnx itself"):
        measure(small, against=small)
    with pytest.raises(InputError, match=r"reads z; .* reads x"):
        measure(small, against=models.write("other.onnx", products(name="z")))


@pytest.mark.parametrize(
    ("after", "predicted", "sign"),
    [
        ((2.0, 2.1, 2.2), 3.0, "right"),
        ((2.0, 2.1, 2.2), 0.5, "wrong"),
        ((0.5, 0.6, 0.7), 0.5, "right"),
        ((0.5, 0.6, 0.7), 1.0, "wrong"),
        ((2.0, 2.1, 2.2), 1.0, "wrong"),
        ((0.9, 1.0, 1.1), 0.5, "not resolved"),
    ],
)
def test_a_sign_counts_only_where_the_measured_interval_leaves_out_one(after, predicted, sign):
    pair = [{"seconds": {"from_profile": {"value": value}}} for value in (1.0, predicted)]
    timings = [SimpleNamespace(samples=samples) for samples in (after, (1.0, 1.0, 1.0))]
    assert measure_module._difference(Phase("1x1", {}), pair, *timings)["sign"] == sign


def test_a_model_whose_ops_cannot_be_timed_is_measured_as_a_whole(models, monkeypatch):
    def refuse(*_):
        raise InputError("The ops cannot be timed.")

    monkeypatch.setattr(subject.Subject, "op_times", refuse)
    (run,) = measure(models.write("m.onnx", products()), rounds=3)["runs"]
    assert run["seconds"]["measured"] > 0
    assert (run["ops"], run["classes"], run["summary"]) == ([], [], {"unavailable": "The ops cannot be timed."})


def test_a_torch_model_runs_on_the_card_that_the_profile_is_of(monkeypatch, tmp_path):
    (tmp_path / "two_layers.py").write_text(
        "import torch\ndef factory():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval(), (torch.ones(2, 3),)\n"
    )
    monkeypatch.chdir(tmp_path)
    waited, kinds, places = [], [], []

    def on_device(graph, place):
        places.append(place)
        return graph

    # The processor stands in for the card.
    monkeypatch.setattr(subject, "CARD", "cpu")
    monkeypatch.setattr("szilard.rewriter.on_device.on_device", on_device)
    monkeypatch.setattr(measure_module, "place_of", lambda device, target: "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(len(waited)))
    monkeypatch.setattr(measure_module, "open_meter", lambda kind: kinds.append(kind) or counter(0.5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A card")
    found = measure("two_layers:factory", target="h200", rounds=3)
    assert found["machine"] == "A card"
    (run,) = found["runs"]
    assert (places, kinds) == (["cpu"], ["cuda"])
    assert len(waited) > 3, "samples of the clock end when the card is done"
    assert run["runtime"] == "torch"
    assert run["joules"]["measured"] == 0.5
    assert {row["kind"] for row in run["ops"]} == {"matmul", "relu"}


def test_a_folder_is_held_against_its_own_plan(models):
    folder = models.folder / "out"
    folder.mkdir()
    models.write("out/model.onnx", products())
    plan = Plan("cpu", Workload((Phase("5x33", {"x": (5, FEATURES)}),)), Budget(), ())
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    report = {"target": "cpu", "seconds": {"after": 9.0, "predicted": {"after": 7.5}}, "joules": {"after": 3.5}}
    (folder / "report.json").write_text(json.dumps(report))
    (run,) = measure(str(folder), rounds=5)["runs"]
    assert run["workload"] == "5x33"
    assert (run["seconds"]["predicted"], run["seconds"]["predicted_from"]) == (7.5, "plan")
    assert run["joules"]["predicted"] == 3.5
    (other,) = measure(str(folder), workload=["3x33"], rounds=5)["runs"]
    assert other["seconds"]["predicted_from"] == "roofline"
    (folder / "report.json").write_text(json.dumps({**report, "target": "h200"}))
    (foreign,) = measure(str(folder), rounds=5)["runs"]
    assert foreign["seconds"]["predicted_from"] == "roofline"
    assert foreign["seconds"]["predicted"] < 1
    assert foreign["joules"]["predicted"] < 1


def test_several_shapes_are_held_against_the_seconds_of_the_rewrite(models):
    folder = models.folder / "out"
    folder.mkdir()
    models.write("out/model.onnx", products())
    phases = Phase("5x33", {"x": (5, FEATURES)}), Phase("7x33", {"x": (7, FEATURES)})
    (folder / "plan.json").write_text(json.dumps(Plan("cpu", Workload(phases), Budget(), ()).to_json()))
    timed = {"5x33": {"before": 4.0, "after": 2.0}, "7x33": {"before": 8.0, "after": 6.0}}
    report = {
        "target": "cpu",
        "seconds": {"after": 4.0, "predicted": {"after": 3.0}, "phases": timed},
        "joules": {"after": 3.5},
    }
    (folder / "report.json").write_text(json.dumps(report))
    found = [run["seconds"] for run in measure(str(folder), rounds=5)["runs"]]
    assert [(each["predicted"], each["predicted_from"]) for each in found] == [(2.0, "rewrite"), (6.0, "rewrite")]
    del report["seconds"]["phases"]
    (folder / "report.json").write_text(json.dumps(report))
    assert [run["seconds"]["predicted_from"] for run in measure(str(folder), rounds=5)["runs"]] == ["roofline", "roofline"]


def test_a_profile_of_another_kind_of_device_is_refused(models):
    with pytest.raises(InputError, match="h200 is not a processor's profile"):
        measure(models.write("m.onnx", products()), rounds=5, target="h200")
