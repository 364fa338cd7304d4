"""Small models of products and tanh, written to a folder and loaded without the real loader, for `measure` and `compare`."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir

from szilard.cost_model.counter import Sensors
from szilard.cost_model.energy_reading import EnergyLog, EnergyReading
from szilard.cost_model.energy_session import static_joules
from szilard.cost_model.energy_window import Window
from szilard.cost_model.meter import Meter
from szilard.cost_model.program import Program
from szilard.rewriter import compare as compare_module
from szilard.rewriter import measure as measure_module
from szilard.rewriter import subject as subject_module

FEATURES = 33


def products(layers: int = 1, scale: float = 1.0, name: str = "x") -> ir.Model:
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


def written_models(tmp_path, monkeypatch) -> SimpleNamespace:
    """Writes models (`write`) and loads them without the real loader; `calibration` is what each comes with. There is no counter."""
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

    monkeypatch.setattr(subject_module, "load", load)
    monkeypatch.setattr(compare_module, "load", load)
    for module in (measure_module, compare_module):
        monkeypatch.setattr(module, "open_meter", lambda kind="cpu": Meter("unavailable", "There is no counter."))
    found.write = write
    return found


def reading(*joules: float) -> EnergyReading:
    """What a counter says of one call that took so many joules in each window."""
    windows = tuple(Window(each, 1.0, 1.0, 0.0, 1.0, 0.0, None) for each in joules)
    sensors = Sensors(41.0, 1980.0, 700.0, ("power cap",), "A card", "550.1")
    log = EnergyLog(after=sensors, stopped="precise")
    mean = sum(joules) / len(joules)
    return EnergyReading("measured", "A counter.", mean, 0.9 * mean, 1.1 * mean, 1.0, windows=windows, log=log)


def counter(joules: float) -> Meter:
    """A counter that reads so many joules for each call of anything."""

    class Fixed(Meter):
        def energies(self, runs, *, idle_watts=None, **effort):
            found = reading(*(joules,) * 5)
            return dict.fromkeys(runs, replace(found, static_joules=static_joules(idle_watts, found.seconds)))

    return Fixed("measured", "A counter.")


def counters(*sessions: dict[str, EnergyReading]) -> Meter:
    """A counter whose sessions say what they are told to, one after the other."""
    waiting = list(sessions)

    class Told(Meter):
        def energies(self, runs, **effort):
            found = waiting.pop(0)
            assert set(found) == set(runs)
            return found

    return Told("measured", "A counter.")
