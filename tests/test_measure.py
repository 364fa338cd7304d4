"""Measured beside predicted, labels that never claim a counter that is not there, and two models in one run."""

import json
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from szilard.cost_model.energy_reading import EnergyReading
from szilard.cost_model.energy_window import Window
from szilard.cost_model.errors import InputError
from szilard.cost_model.meter import Meter
from szilard.cost_model.plan import Budget, Phase, Plan, Workload
from szilard.cost_model.program import Program
from szilard.rewriter import measure as measure_module
from szilard.rewriter.measure import compare, measure

FEATURES = 33


def model(layers: int = 1, scale: float = 1.0, name: str = "x") -> ir.Model:
    """`layers` matrix products with tanh between them, the last one scaled."""
    weight = np.random.default_rng(5).standard_normal((FEATURES, FEATURES)).astype(np.float32) / 6
    x = ir.val(name, ir.DataType.FLOAT, ["rows", FEATURES])
    nodes, value, initializers = [], x, []
    for layer in range(layers):
        w = ir.Value(name=f"w{layer}", const_value=ir.tensor(weight * (scale if layer == layers - 1 else 1)))
        initializers.append(w)
        nodes.append(ir.node("MatMul", [value, w]))
        nodes.append(ir.node("Tanh", nodes[-1].outputs))
        value = nodes[-1].outputs[0]
    value.name, value.type, value.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", FEATURES])
    graph = ir.Graph([x], [value], nodes=nodes, initializers=initializers, opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Writes models and loads them without the real loader; `calibration` is what each comes with."""
    found = SimpleNamespace(folder=tmp_path, calibration=None)

    def load(spec, task=None, shapes=None):
        path = tmp_path / spec if str(spec).endswith(".onnx") else tmp_path / spec / "model.onnx"
        graph = ir.load(path)
        name = graph.graph.inputs[0].name
        sample = {name: np.random.default_rng(1).standard_normal((2, FEATURES)).astype(np.float32)}
        program = Program(graph, "onnxruntime", sample, (name,), ("y",), {name: {0: "rows"}}, str(spec))
        return SimpleNamespace(program=program, calibration=found.calibration, workload=None, metric=None, notes=())

    def write(name: str, graph: ir.Model) -> str:
        ir.save(graph, tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr(measure_module, "load", load)
    monkeypatch.setattr(measure_module, "open_meter", lambda: Meter("unavailable", "There is no counter."))
    found.write = write
    return found


def counter(joules: float) -> Meter:
    window = Window(joules, 1.0, 1.0, 0.0, 1.0, 0.0, None)
    reading = EnergyReading("measured", "A counter.", joules, joules, joules, 1.0, windows=(window,) * 5)

    class Fixed(Meter):
        def energies(self, runs, **effort):
            return dict.fromkeys(runs, reading)

    return Fixed("measured", "A counter.")


def test_measured_seconds_stand_beside_the_prediction(models):
    runs = measure(models.write("m.onnx", model()), workload=["3x33:1", "7x33:1"], rounds=5)["runs"]
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
    monkeypatch.setattr(measure_module, "open_meter", lambda: counter(0.25))
    (run,) = measure(models.write("m.onnx", model()), rounds=5)["runs"]
    assert "unavailable" not in run["joules"]
    assert (run["joules"]["label"], run["joules"]["measured"]) == ("measured", 0.25)
    compared = compare(str(models.folder / "m.onnx"), str(models.folder / "m.onnx"), rounds=5)
    assert compared["joules"]["ratio"] == 1.0


def test_a_folder_is_held_against_its_own_plan(models):
    folder = models.folder / "out"
    folder.mkdir()
    models.write("out/model.onnx", model())
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
    models.write("out/model.onnx", model())
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
        measure(models.write("m.onnx", model()), rounds=5, target="h200")


def test_the_slower_model_has_the_ratio(models):
    small, large = models.write("small.onnx", model(1)), models.write("large.onnx", model(40))
    found = compare(small, large, workload=["64x33"], rounds=9)["seconds"]
    assert found["ratio"] > 1.5
    assert found["low"] <= found["ratio"] <= found["high"]
    assert compare(large, small, workload=["64x33"], rounds=9)["seconds"]["ratio"] < 0.7


def test_shapes_are_weighted(models, monkeypatch):
    taken = iter([{"a": (1.0, 1.0), "b": (3.0, 3.0)}, {"a": (5.0, 5.0), "b": (3.0, 3.0)}])
    monkeypatch.setattr(
        measure_module,
        "measure_interleaved",
        lambda calls, rounds: {n: SimpleNamespace(samples=s) for n, s in next(taken).items()},
    )
    path = models.write("m.onnx", model())
    found = compare(path, path, workload=["3x33:3", "7x33:1"], rounds=5)
    assert (found["seconds"]["a"], found["seconds"]["b"], found["seconds"]["ratio"]) == (2.0, 3.0, 1.5)
    assert [run["seconds"]["ratio"] for run in found["runs"]] == [3.0, 0.6]


def test_equal_models_are_not_apart(models):
    path = models.write("m.onnx", model())
    found = compare(path, path, rounds=5)
    assert found["error"] == {"relative_squared": 0.0, "cosine": pytest.approx(1.0), "samples": 1}
    assert found["joules"] == {"unavailable": "There is no counter."}


def test_calibration_samples_are_the_inputs_compared_on(models):
    models.calibration = {"x": np.random.default_rng(0).standard_normal((10, 4, FEATURES)).astype(np.float32)}
    found = compare(models.write("a.onnx", model()), models.write("b.onnx", model(scale=1.05)), rounds=5)
    assert found["error"]["samples"] == 5
    assert 1e-5 < found["error"]["relative_squared"] < 0.01


def test_models_with_other_inputs_are_refused(models):
    with pytest.raises(InputError, match=r"reads x; .* reads z"):
        compare(models.write("a.onnx", model()), models.write("b.onnx", model(name="z")), rounds=5)
