"""A Net says of every value what onnxruntime computes. Covers collection.py."""

import gc

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.collection import collection_paused
from szilard.cost_model.view_onnx import SCOPES, view_onnx

from .onnx_texts import model, normal
from .test_shapes_onnx import IF

STEPS = {
    "MatMul(last, w)": 2, "Add(last, b)": 2, "Relu(last)": 0, "Transpose(last)": 0, "Unsqueeze(last, zero)": 0,
    "Softmax(last)": 1, "ReduceMean(last, one)": 2, "Flatten(last)": 0, "Concat<axis=-1>(last, last)": 1, "Shape(last)": 0,
    "Cast<to=11>(last)": 0, "NonZero(last)": 0, "com.microsoft.Gelu(last)": 0,
}  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7), st.integers(1, 5))
def test_shapes_and_dtypes_are_those_of_a_run(steps, rows):
    lines, last = [], "x"
    for number, step in enumerate(steps):
        lines.append(f"v{number} = {step.replace('last', last)}")
        last = f"v{number}"
    weights = {"w": normal(0, 6, 6), "b": normal(1, 6), "zero": [0], "one": [-1]}
    text = f"(float[N,6] x) => ({last}) {{ {' '.join(lines)} }}"
    built = model(text, weights)
    x = normal(2, rows, 6)
    proto = ir.to_proto(built)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=f"v{number}") for number in range(len(steps)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(None, {"x": x})
    except Exception:
        return
    net = view_onnx(built, {"x": x.shape}, {"x": x})
    for number, result in enumerate(results):
        value = net.values[f"v{number}"]
        assert (value.shape, value.dtype) == (result.shape, result.dtype.name)


def test_a_node_is_an_op_of_its_own_name_and_weights_load_when_asked():
    weight = normal(0, 3, 4)
    net = view_onnx(model("(float[N,3] x) => (y) { h = MatMul(x, w) y = Relu(h) }", {"w": weight}), {"x": (5, 3)})
    assert {name: op.kind for name, op in net.ops.items()} == {"n0": "matmul", "n1": "relu"}
    assert (net.inputs, net.outputs) == (("x",), ("y",))
    assert net.values["w"].constant
    assert not net.values["h"].constant
    np.testing.assert_array_equal(net.array("w"), weight)
    assert [op.id for op in net.consumers("h")] == ["n1"]
    assert net.ops["n0"].origin == "n0"


def test_constant_nodes_are_constant_values():
    net = view_onnx(model("(float[2] x) => (y) { c = Constant<value_float=0.5>() y = Mul(x, c) }"), {})
    assert net.scalar("c") == 0.5
    assert net.ops["n0"].kind == "constant"


def test_the_module_path_of_an_exported_node_is_its_origin():
    built = model("(float[2] x) => (y) { y = Relu(x) }")
    next(iter(built.graph)).metadata_props[SCOPES] = "['', 'encoder', 'encoder.layer.0', 'relu_1']"
    assert view_onnx(built, {}).ops["n0"].origin == "encoder.layer.0"


@pytest.mark.parametrize(("k", "taken"), [(2, 0), (3, 1)])
def test_branches_are_nets_and_the_one_taken_is_known(k, taken):
    built = model(IF, {"two": np.int64(2), "w": normal(0, 4, 7)})
    op = view_onnx(built, {"x": (5, 4)}, {"x": normal(1, 5, 4), "k": np.array(k)}).ops["n1"]
    assert op.kind == "if"
    assert op.attributes["taken"] == taken
    then, otherwise = op.branches
    assert [each.kind for each in then.ops.values()] == ["matmul"]
    assert set(then.captured) == {"x", "w"}
    assert otherwise.values["u"].shape == ((2, 20) if k == 3 else None)
    assert then.values["t"].shape == (5, 7)


def test_absent_operands_keep_their_place():
    net = view_onnx(model("(float[2,3] x) => (y) { y = Clip(x, , b) }", {"b": np.float32(1)}), {})
    assert net.ops["n0"].inputs == ("x", "", "b")


def test_collection_is_paused_and_comes_back_even_after_a_fault():
    def fail():
        with collection_paused():
            assert not gc.isenabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
