"""Two models in one interleaved run: the ratio, weights of shapes, joules, and how far the outputs are apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from szilard.cost_model.energy_reading import EnergyReading
from szilard.cost_model.errors import InputError
from szilard.rewriter import compare as compare_module
from szilard.rewriter.compare import compare

from .product_models import FEATURES, counters, products, reading, written_models


@pytest.fixture
def models(tmp_path, monkeypatch):
    return written_models(tmp_path, monkeypatch)


def test_the_slower_model_has_the_ratio(models):
    small, large = models.write("small.onnx", products(1)), models.write("large.onnx", products(40))
    found = compare(small, large, workload=["64x33"], rounds=9)["seconds"]
    assert found["ratio"] > 1.5
    assert found["low"] <= found["ratio"] <= found["high"]
    assert compare(large, small, workload=["64x33"], rounds=9)["seconds"]["ratio"] < 0.7


def test_shapes_are_weighted(models, monkeypatch):
    taken = iter([{"a": (1.0, 1.0), "b": (3.0, 3.0)}, {"a": (5.0, 5.0), "b": (3.0, 3.0)}])
    monkeypatch.setattr(
        compare_module,
        "measure_interleaved",
        lambda calls, rounds: {n: SimpleNamespace(samples=s) for n, s in next(taken).items()},
    )
    path = models.write("m.onnx", products())
    found = compare(path, path, workload=["3x33:3", "7x33:1"], rounds=5)
    assert (found["seconds"]["a"], found["seconds"]["b"], found["seconds"]["ratio"]) == (2.0, 3.0, 1.5)
    assert [run["seconds"]["ratio"] for run in found["runs"]] == [3.0, 0.6]


def test_joules_are_weighted_means_of_shapes_with_unequal_windows(models, monkeypatch):
    """At a third of the calls B takes half of A's joules, at the others three times as many: (1 x 2 + 2 x 12) / (1 x 4 + 2 x 4)."""
    meter = counters(
        {"a": reading(3.9, 4.0, 4.1, 4.0, 4.0), "b": reading(1.9, 2.0, 2.1, 2.0, 2.0)},
        {"a": reading(4.0, 4.0, 4.0, 4.0, 4.0, 3.9, 4.1), "b": reading(12.0, 12.0, 12.1, 11.9, 12.0, 12.0, 12.0)},
    )
    monkeypatch.setattr(compare_module, "open_meter", lambda: meter)
    path = models.write("m.onnx", products())
    found = compare(path, path, workload=["3x33:1", "7x33:2"], rounds=5)["joules"]
    assert found["label"] == "measured"
    assert (found["a"], found["b"]) == (pytest.approx(12 / 3), pytest.approx(26 / 3))
    assert found["ratio"] == pytest.approx(26 / 12)
    assert 2.0 < found["low"] < found["ratio"] < found["high"] < 2.4


@pytest.mark.parametrize("refused", [0, 1])
def test_a_shape_that_the_counter_refuses_leaves_no_joules_of_the_others(models, monkeypatch, refused):
    sessions = [{"a": reading(4.0, 4.0), "b": reading(2.0, 2.0)}, {"a": reading(4.0, 4.0), "b": reading(2.0, 2.0)}]
    sessions[refused]["b"] = EnergyReading("unavailable", "The card was too hot.")
    monkeypatch.setattr(compare_module, "open_meter", lambda: counters(*sessions))
    path = models.write("m.onnx", products())
    found = compare(path, path, workload=["3x33", "7x33"], rounds=5)
    assert found["joules"] == {"unavailable": f"at {('3x33', '7x33')[refused]}: The card was too hot."}
    assert len(found["runs"]) == 2


def test_equal_models_are_not_apart(models):
    path = models.write("m.onnx", products())
    found = compare(path, path, rounds=5)
    assert found["error"] == {"relative_squared": 0.0, "cosine": pytest.approx(1.0), "samples": 1}
    assert found["joules"] == {"unavailable": "There is no counter."}


def test_calibration_samples_are_the_inputs_compared_on(models):
    models.calibration = {"x": np.random.default_rng(0).standard_normal((10, 4, FEATURES)).astype(np.float32)}
    found = compare(models.write("a.onnx", products()), models.write("b.onnx", products(scale=1.05)), rounds=5)
    assert found["error"]["samples"] == 5
    assert 1e-5 < found["error"]["relative_squared"] < 0.01


def test_models_with_other_inputs_are_refused(models):
    with pytest.raises(InputError, match=r"reads x; .* reads z"):
        compare(models.write("a.onnx", products()), models.write("b.onnx", products(name="z")), rounds=5)
