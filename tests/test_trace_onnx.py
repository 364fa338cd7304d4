"""ONNX files load in normal form, and every fault of a file is one sentence. Covers normal_onnx.py."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from szilard.cost_model.errors import InputError
from szilard.rewriter.normal_onnx import normalise
from szilard.rewriter.trace_onnx import load_onnx, trace_onnx_model

from .onnx_graphs import run
from .onnx_texts import model, normal, proto

LINEAR = "(float[N,4] x) => (y) { h = MatMul(x, w) y = Relu(h) }"


def linear(**more):
    return proto(LINEAR, {"w": normal(0, 4, 3)}, **more)


def test_a_file_becomes_a_program(tmp_path):
    path = tmp_path / "linear.onnx"
    onnx.save(linear(), path)
    program = load_onnx(path, {"x": (7, 4)})
    assert (program.inputs, program.outputs, program.runtime) == (("x",), ("y",), "onnxruntime")
    assert program.sample["x"].shape == (7, 4)
    assert program.dynamic == {"x": {0: "N"}}
    assert program.source == str(path)


def external(tmp_path, location="weights.data"):
    path = tmp_path / "model.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    built = onnx.load(path, load_external_data=False)
    for entry in built.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(built.SerializeToString())
    return path


def test_external_weights_are_read(tmp_path):
    program = load_onnx(external(tmp_path))
    np.testing.assert_array_equal(program.graph.graph.initializers["w"].const_value.numpy(), normal(0, 4, 3))


def faulty(folder, kind):
    path = folder / "model.onnx"
    if kind == "missing":
        return path
    if kind == "folder":
        return folder
    if kind == "text":
        path.write_text("hello, this is no model at all\n" * 20)
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "cut off":
        content = linear().SerializeToString()
        path.write_bytes(content[: len(content) // 2])
    if kind == "pickle":
        path.write_bytes(b"\x80\x04\x95\x10" * 50)
    if kind == "data missing":
        external(folder)
        (folder / "weights.data").unlink()
    if kind == "data outside":
        (folder / "inner").mkdir()
        path = external(folder / "inner", "../weights.data")
    if kind == "data absolute":
        path = external(folder, "/etc/passwd")
    if kind == "data cut off":
        external(folder)
        (folder / "weights.data").write_bytes(b"1234")
    if kind.startswith("data at"):
        external(folder)
        built = onnx.load(path, load_external_data=False)
        next(entry for entry in built.graph.initializer[0].external_data if entry.key == "offset").value = kind.split()[-1]
        path.write_bytes(built.SerializeToString())
    if kind == "operator":
        onnx.save(proto("(float[N,4] x) => (y) { y = com.microsoft.Unheard(x) }"), path)
    if kind == "shapes":
        onnx.save(proto("(float[3,4] x) => (y) { y = MatMul(x, x) }"), path)
    if kind == "NaN":
        onnx.save(proto(LINEAR, {"w": np.array([[1, 2], [np.nan, 3], [1, 1], [1, 1]], np.float32)}), path)
    if kind == "infinity":
        onnx.save(proto(LINEAR, {"w": np.array([[1, 2], [np.inf, 3], [1, 1], [1, 1]], np.float32)}), path)
    if kind == "strings":
        onnx.save(proto("(string[N] x) => (y) { y = Identity(x) }".replace("string[", "string [")), path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("text", "not an ONNX model"),
        ("empty", "not an ONNX model"),
        ("cut off", "not an ONNX model"),
        ("pickle", "not an ONNX model"),
        ("data missing", "'w'.*'weights.data', which is missing"),
        ("data outside", "outside the model's folder"),
        ("data absolute", "outside the model's folder"),
        ("data cut off", "ends at byte 48 of 'weights.data', which has 4"),
        ("data at middle", "'w'.*offset 'middle' of 'weights.data' with length '48'"),
        ("data at -5", "offset '-5'"),
        ("operator", "Unheard"),
        ("shapes", "model.onnx: .*MatMul"),
        ("NaN", "'w'.*NaN"),
        ("infinity", "'w'.*infinity"),
        ("strings", "'x' is no tensor of numbers"),
    ],
)
def test_faults_are_sentences(tmp_path, kind, words):
    with pytest.raises(InputError, match=words) as caught:
        load_onnx(faulty(tmp_path, kind))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_an_operator_that_only_the_runtime_knows_passes():
    text = "(float[N,4] x) => (y) { y = com.microsoft.QuickGelu(x) }"
    assert trace_onnx_model(model(text)).outputs == ("y",)


def test_infinities_in_a_mask_are_meant():
    text = "(float[2,2] x) => (y) { h = Add(x, m) y = Softmax(h) }"
    assert trace_onnx_model(model(text, {"m": np.array([[0, -np.inf], [0, 0]], np.float32)})).outputs == ("y",)


def test_a_length_that_the_model_needs_is_found():
    text = """(float[N,t] x) => (y) { y = Pad<mode="reflect">(x, p) }"""
    assert trace_onnx_model(model(text, {"p": [0, 60, 0, 60]})).sample["x"].shape == (1, 128)


def test_a_model_that_refuses_its_sample_says_what_to_give():
    text = "(float[N,t] x) => (y) { y = Reshape(x, s) }"
    with pytest.raises(InputError, match=r"on inputs of shape x=1x16; give shapes that it takes with --shape"):
        trace_onnx_model(model(text, {"s": [7, 11]}))
    assert trace_onnx_model(model(text, {"s": [7, 11]}), {"x": (1, 77)}).sample["x"].shape == (1, 77)


def test_a_bare_shape_reaches_the_sample():
    text = "(float[t] x) => (y) { y = Reshape(x, s) }"
    for shapes in ({"x": (77,)}, {"*": (77,)}):
        assert trace_onnx_model(model(text, {"s": [7, 11]}), shapes).sample["x"].shape == (77,)


def test_a_sample_takes_the_place_of_random_inputs(tmp_path):
    text = "(float[N,6] x, int64[2] sizes) => (float[A,B] y) { y = Reshape(x, sizes) }"
    given = {"sizes": np.array([10, 3]), "x": normal(0, 5, 6).astype(np.float64)}
    onnx.save(proto(text), tmp_path / "model.onnx")
    for program in (
        load_onnx(tmp_path / "model.onnx", sample=given),
        trace_onnx_model(model(text), sample=(given["x"], given["sizes"])),
    ):
        assert program.inputs == tuple(program.sample) == ("x", "sizes")
        np.testing.assert_array_equal(program.sample["x"], given["x"].astype(np.float32))
        assert program.sample["x"].dtype == np.float32
    with pytest.raises(InputError, match="failed while running the model"):
        trace_onnx_model(model(text), sample={**given, "sizes": np.array([10, 4])})


def test_the_model_given_is_not_touched():
    given = model("(float[N,4] x) => (y) { c = Constant<value_float=2.0>() y = Mul(x, c) }")
    before = ir.to_proto(given).SerializeToString(deterministic=True)
    program = trace_onnx_model(given)
    assert ir.to_proto(given).SerializeToString(deterministic=True) == before
    assert [node.op_type for node in program.graph.graph] == ["Mul"]


UNTIDY = """<ir_version: 8, opset_import: ["" : 18, "mine" : 1]> g (float [N,4] x, bool on) => (float [N,3] z) {
  shared = Identity(w)
  c = Constant<value_float=0.5>()
  h = MatMul(x, shared)
  s = mine.scale(h, c)
  z = If(on) <then_branch = a () => (t) { half = Constant<value_float=0.25>() t = Mul(s, half) },
              else_branch = b () => (t2) { t2 = Identity(s) }>
}
<domain: "mine", opset_import: ["" : 18]> scale (v, k) => (r) { r = Mul(v, k) }"""


def untidy():
    built = onnx.parser.parse_model(UNTIDY)
    built.graph.initializer.append(onnx.numpy_helper.from_array(normal(0, 4, 3), "w"))
    for node in built.graph.node:
        node.name = "same" if node.op_type == "MatMul" else ""
    built.graph.node[-1].attribute[0].g.node[1].name = "same"
    return built


def test_normal_form():
    built = normalise(ir.from_proto(untidy()))
    names = [node.name for node in built.graph.all_nodes()]
    assert [node.op_type for node in built.graph] == ["MatMul", "Mul", "If"]
    assert len(set(names)) == len(names)
    assert all(names)
    assert not built.functions
    assert [node.inputs[1].name for node in built.graph if node.op_type == "MatMul"] == ["w"]
    again = normalise(ir.from_proto(untidy()))
    assert [node.name for node in again.graph.all_nodes()] == names


@pytest.mark.parametrize("on", [True, False])
def test_normal_form_computes_the_same(on):
    feeds = {"x": normal(1, 3, 4), "on": np.array(on)}
    before, after = ir.from_proto(untidy()), normalise(ir.from_proto(untidy()))
    np.testing.assert_array_equal(run(after, feeds)[0], run(before, feeds)[0])


def test_names_that_are_there_stay_and_new_ones_avoid_them():
    built = model("(float[2] x) => (y) { a = Relu(x) b = Relu(a) y = Relu(b) }")
    nodes = list(built.graph)
    nodes[0].name, nodes[1].name, nodes[2].name = "", "Relu_0", "Relu_0"
    assert [node.name for node in normalise(built).graph] == ["Relu_0_1", "Relu_0", "Relu_0_2"]


def test_old_models_list_their_weights_among_the_inputs():
    built = linear()
    built.ir_version = 3
    built.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3]))
    program = trace_onnx_model(built)
    assert program.inputs == ("x",)
    assert [value.name for value in program.graph.graph.inputs] == ["x"]
