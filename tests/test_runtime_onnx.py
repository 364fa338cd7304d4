"""onnxruntime sessions and the probe inside one: what an addend does is what a computation by hand says."""

import numpy as np
import onnx_ir as ir
import pytest

from szilard.cost_model.errors import InputError
from szilard.rewriter import runtime_onnx
from szilard.rewriter.runtime_onnx import onnx_probe, onnx_runner, open_session, run_session, save_model

from .onnx_texts import model, normal

TWO_LAYERS = "(float[N,11] x) => (float[N,17] hidden, float[N,9] y) { hidden = MatMul(x, w) active = Relu(hidden) y = MatMul(active, v) }"
W, V, X = normal(0, 11, 17), normal(1, 17, 9), normal(2, 4, 11)


def two_layers() -> ir.Model:
    """`hidden` is both an output and read by the rest."""
    return model(TWO_LAYERS, {"w": W, "v": V})


def test_no_addend_and_an_addend_of_zero_change_nothing():
    plain = {"hidden": X @ W, "y": np.maximum(X @ W, 0) @ V}
    with onnx_probe(two_layers(), ["x", "active"], ["hidden", "y"]) as probe:
        undisturbed = probe.run({"x": X}, {})
        zero = probe.run({"x": X}, {"hidden": np.zeros((4, 17), np.float32)})
    assert list(undisturbed) == ["hidden", "y"]
    for name, want in plain.items():
        np.testing.assert_allclose(undisturbed[name], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(zero[name], undisturbed[name])


def test_an_addend_moves_what_lies_behind_it():
    shift, last = normal(3, 4, 17), normal(4, 4, 9)
    with onnx_probe(two_layers(), [], ["hidden", "active", "y"]) as probe:
        found = probe.run({"x": X}, {"hidden": shift, "y": last})
        behind = probe.run({"x": X}, {"active": shift})
    np.testing.assert_allclose(found["hidden"], X @ W + shift, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["y"], np.maximum(X @ W + shift, 0) @ V + last, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(behind["hidden"], X @ W, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(behind["y"], (np.maximum(X @ W, 0) + shift) @ V, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 18])
def test_an_addend_takes_the_dtype_of_its_value(opset):
    """`hidden` declares its dtype and `active` none."""
    text = TWO_LAYERS.replace("float[", "float16 [")
    graph = model(text, {"w": W.astype(np.float16), "v": V.astype(np.float16)}, opset)
    shift, x = normal(3, 4, 17), X.astype(np.float16)
    with onnx_probe(graph, [], ["hidden", "active"]) as probe:
        plain, moved = probe.run({"x": x}, {}), probe.run({"x": x}, {"active": shift})
    assert moved["y"].dtype == np.float16
    np.testing.assert_allclose(moved["y"] - plain["y"], shift @ V, atol=0.1)


def test_values_are_captured_undisturbed_inputs_among_them():
    with onnx_probe(two_layers(), ["x", "active", "hidden"], ["hidden", "active"]) as probe:
        probe.run({"x": X}, {"active": normal(3, 4, 17)})
        found = probe.capture({"x": X}, ["x", "active", "hidden"])
        inputs = probe.capture({"x": X}, ["x"])
    assert set(found) == {"x", "active", "hidden"}
    np.testing.assert_allclose(found["active"], np.maximum(X @ W, 0), rtol=1e-5, atol=1e-5)
    assert list(inputs) == ["x"]
    np.testing.assert_array_equal(inputs["x"], X)


def test_an_addend_reaches_a_branch_that_reads_the_value():
    text = """(float[N,3] x, bool c) => (float[N,3] y) {
        a = Neg(x)
        y = If (c) <then_branch = t () => (float[N,3] t) { t = Abs(a) }, else_branch = e () => (float[N,3] e) { e = Neg(a) }>
    }"""
    x, shift = normal(0, 5, 3), normal(1, 5, 3)
    with onnx_probe(model(text), ["a"], ["a"]) as probe:
        for condition, expected in ((True, np.abs(shift - x)), (False, x - shift)):
            found = probe.run({"x": x, "c": np.array(condition)}, {"a": shift})
            np.testing.assert_allclose(found["y"], expected, rtol=1e-6)


def test_the_probed_model_stays_as_it_was():
    graph = two_layers()
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    with onnx_probe(graph, ["active"], ["hidden", "y"]):
        pass
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_what_onnxruntime_refuses_is_quoted(tmp_path):
    odd = model("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    next(iter(odd.graph)).domain = "made.up"
    odd.opset_imports["made.up"] = 1
    (tmp_path / "cut.onnx").write_bytes(ir.to_proto(two_layers()).SerializeToString()[:-9])
    for source in (odd, tmp_path / "cut.onnx", tmp_path / "none.onnx"):
        with (
            pytest.raises(InputError, match=r"^onnxruntime cannot load the model: .*(made\.up|cut\.onnx|none\.onnx)") as caught,
            open_session(source),
        ):
            pass
        assert "\n" not in str(caught.value)


def test_a_run_that_fails_is_quoted():
    with open_session(two_layers()) as session:
        with pytest.raises(InputError, match=r"failed while running the model: .*x"):
            run_session(session, {})
        with pytest.raises(InputError, match="indices index: 1 Got: 6 Expected: 11"):
            run_session(session, {"x": normal(0, 4, 6)})


def test_external_weights_are_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    ir.save(two_layers(), tmp_path / "model" / "model.onnx", external_data="model.onnx.data")
    assert (tmp_path / "model" / "model.onnx.data").stat().st_size >= W.nbytes + V.nbytes
    read = ir.load(tmp_path / "model" / "model.onnx")
    assert any(isinstance(value.const_value, ir.ExternalTensor) for value in read.graph.initializers.values())
    monkeypatch.chdir(tmp_path / "elsewhere")
    for source in (read, tmp_path / "model" / "model.onnx"):
        with onnx_runner(source) as run:
            np.testing.assert_allclose(run({"x": X})["y"], np.maximum(X @ W, 0) @ V, rtol=1e-5, atol=1e-5)
    with onnx_probe(ir.load(tmp_path / "model" / "model.onnx"), [], ["hidden"]) as probe:
        np.testing.assert_allclose(probe.run({"x": X}, {})["hidden"], X @ W, rtol=1e-5, atol=1e-5)


def test_a_model_beyond_protocol_buffers_keeps_its_weights_beside_it(tmp_path, monkeypatch):
    graph = two_layers()
    assert runtime_onnx.weight_bytes(graph) == W.nbytes + V.nbytes
    save_model(graph, tmp_path / "small.onnx")
    monkeypatch.setattr(runtime_onnx, "LARGEST_INLINE_BYTES", W.nbytes)
    save_model(graph, tmp_path / "large.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "large.onnx", "large.onnx.data"}
    assert (tmp_path / "large.onnx").stat().st_size < V.nbytes < W.nbytes < (tmp_path / "small.onnx").stat().st_size
    with onnx_runner(graph) as run, onnx_runner(tmp_path / "large.onnx") as again:
        want = np.maximum(X @ W, 0) @ V
        np.testing.assert_allclose(run({"x": X})["y"], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(again({"x": X})["y"], want, rtol=1e-5, atol=1e-5)
