"""Shapes and dtypes of every value, as inference and one run find them. Covers probe_onnx.py."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from szilard.cost_model import shapes_onnx
from szilard.cost_model.errors import InputError
from szilard.cost_model.probe_onnx import measure_shapes, run
from szilard.cost_model.shapes_onnx import dtype_name, facts_of, infer, skeleton

from .onnx_texts import model, normal

LARGE = {"w": normal(0, 64, 32)}
IF = """(float[N,4] x, int64 k) => (y) {
  c = Equal(k, two)
  y = If (c) <then_branch = a () => (t) { t = MatMul(x, w) }, else_branch = b () => (e) { u = NonZero(x) e = Cast<to=1>(u) }>
}"""


def test_symbols_are_put_in_and_declared_shapes_of_another_batch_forgotten():
    text = "(float[N,64] x) => (float[1,32] y) <float[1,32] h> { h = MatMul(x, w) y = Relu(h) }"
    found = infer(model(text, LARGE), {"x": (3, 64)}).flat
    assert found["h"] == found["y"] == ((3, 32), "float32")


def test_large_weights_stay_out_of_the_copy_and_the_model_as_it_was():
    given = model("(float[N,64] x) => (y) { h = MatMul(x, w) y = Reshape(h, s) }", LARGE | {"s": [-1]})
    before = ir.to_proto(given).SerializeToString(deterministic=True)
    proto, large = skeleton(given, {"x": (2, 64)})
    assert list(large) == ["w"]
    assert [tensor.name for tensor in proto.graph.initializer] == ["s"]
    assert proto.ByteSize() < 1000
    assert ir.to_proto(given).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("operator", ["com.microsoft.FastGelu(h)", "com.microsoft.Gelu(h)"])
def test_operators_that_inference_does_not_know_are_run(operator):
    text = f"(float[N,64] x) => (y) {{ h = MatMul(x, w) g = {operator} y = Transpose(g) }}"
    found = infer(model(text, LARGE), {"x": (3, 64)}).flat
    assert found["g"] == ((3, 32), "float32")
    assert found["y"] == ((32, 3), "float32")


def test_what_depends_on_data_is_read_off_the_sample():
    given = model("(float[N] x) => (y) { y = NonZero(x) }")
    sample = np.array([0, 1, 0, 2, 3], np.float32)
    assert infer(given, {"x": (5,)}, {"x": sample}).flat["y"] == ((1, 3), "int64")
    assert infer(given, {"x": (4,)}, {"x": sample}).flat["y"] == ((1, 4), "int64"), "a sample of another shape is no sample"


def test_a_weight_that_nothing_reads_is_no_obstacle_to_a_run():
    given = model("(float[N] x) => (y) { y = NonZero(x) }", LARGE)
    assert infer(given, {"x": (3,)}, {"x": np.array([0, 1, 2], np.float32)}).flat["y"] == ((1, 2), "int64")


def test_what_cannot_be_run_stays_unknown():
    found = infer(model("(float[N,3] x) => (y) { h = com.microsoft.Unheard(x) y = Relu(x) }"), {"x": (2, 3)}).flat
    assert "h" not in found or found["h"] == (None, None)
    assert found["y"] == ((2, 3), "float32")


def test_a_graph_that_inference_refuses_is_run(monkeypatch):
    def refuse(*arguments, **options):
        raise onnx.shape_inference.InferenceError("no opset import")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", refuse)
    found = infer(model("(float[N,3] x) => (y) { h = Relu(x) y = Transpose(h) }"), {"x": (2, 3)}).flat
    assert found["h"] == ((2, 3), "float32")
    assert found["y"] == ((3, 2), "float32")


@pytest.mark.parametrize(("k", "branch", "shape"), [(2, "then_branch", (5, 7)), (3, "else_branch", (2, 20))])
def test_the_branch_that_the_sample_takes_is_followed(k, branch, shape):
    sample = {"x": normal(1, 5, 4), "k": np.array(k)}
    found = infer(model(IF, {"two": np.int64(2), "w": normal(0, 4, 7)}), {"x": (5, 4)}, sample)
    assert found.taken == {"n1": branch}
    assert found.flat["y"] == (shape, "float32")


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="'x'"):
        infer(model("(float[N,3] x) => (y) { y = Relu(x) }"), {"x": (2, 4)})


def test_a_run_uses_weights_that_are_only_declared():
    weight = normal(3, 64, 32)
    given = model("(float[N,64] x) => (y) { y = MatMul(x, w) }", {"w": weight})
    proto, large = skeleton(given, {"x": (2, 64)})
    x = normal(4, 2, 64)
    (result,) = run(proto, large, {"x": x})
    np.testing.assert_allclose(result, x @ weight, rtol=1e-4, atol=1e-4)
    assert run(proto, large, {}) is None


@pytest.mark.parametrize("kind", [ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN])
def test_weights_of_dtypes_that_numpy_lacks_are_given_to_a_run(kind):
    given = model("(float[N,64] x) => (y) { w = Cast<to=1>(v) h = MatMul(x, w) y = com.microsoft.Gelu(h) }", opset=21)
    weight = ir.tensor(np.ones((64, 32), np.int8)).numpy().astype(kind.numpy())
    value = ir.Value(
        name="v", shape=ir.Shape((64, 32)), type=ir.TensorType(kind), const_value=ir.tensor(weight, kind, name="v")
    )
    node = next(iter(given.graph))
    node.replace_input_with(0, value)
    given.graph.register_initializer(value)
    assert infer(given, {"x": (3, 64)}).flat["y"] == ((3, 32), "float32")


def test_shapes_of_scalars_and_halves_are_measured():
    given = model("(float[N,3] x) => (y, z) { y = ReduceSum<keepdims=0>(x) z = Cast<to=10>(x) }")
    proto, large = skeleton(given, {"x": (2, 3)})
    infos = measure_shapes(proto, large, {"x": normal(0, 2, 3)}, ["y", "z"])
    graph = onnx.helper.make_graph([], "g", [], [], value_info=infos)
    assert facts_of(graph) == {"y": ((), "float32"), "z": ((2, 3), "float16")}


def test_names_of_dtypes():
    names = [
        dtype_name(kind) for kind in (ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.STRING, ir.DataType.UNDEFINED, None)
    ]
    assert names == ["bfloat16", "int4", "str", None, None]
    assert shapes_onnx.SMALL < 64 * 32
