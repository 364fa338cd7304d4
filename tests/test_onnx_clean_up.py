"""The clean-up leaves the outputs of small models and of real ones as they were, and nothing needless in the graph."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import rapidocr
import silero_vad
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.passes.onnx_clean_up import CleanUp

from .onnx_graphs import apply, assert_same, graph, kinds, run

SILERO = Path(silero_vad.__file__).parent / "data"
RAPIDOCR = Path(rapidocr.__file__).parent / "models"


def cleaned(model: ir.Model) -> ir.Model:
    return apply(CleanUp(), model, (), ())[0]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx"])
def test_voice_activity(name, rate):
    model = ir.load(SILERO / name)
    if rate == 8000 and "16k" in name:
        pytest.skip("this file takes 16 kHz alone")
    samples = 576 if rate == 16000 else 288
    feeds = {"input": numbers(1, samples), "state": numbers(2, 1, 128), "sr": np.array(rate, np.int64)}
    after = cleaned(model)
    assert (
        sum(1 for node in after.graph.all_nodes() if node.op_type == "Constant" and not node.outputs[0].is_graph_output()) == 0
    )
    # Not to the bit: onnxruntime packs the weights of an LSTM in another way once they are constants.
    assert_same(model, after, feeds, tolerance=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("PP-OCRv6_det_small.onnx", (1, 3, 96, 160)),
        ("PP-OCRv6_rec_small.onnx", (2, 3, 48, 136)),
        ("ch_ppocr_mobile_v2.0_cls_mobile.onnx", (1, 3, 48, 192)),
    ],
)
def test_text_recognition(name, shape):
    model = ir.load(RAPIDOCR / name)
    after = cleaned(model)
    assert "Identity" not in kinds(after) or after.graph[-1].op_type == "Identity"
    assert len(after.graph) < len(model.graph)
    assert_same(model, after, {"x": numbers(*shape)}, tolerance=0)


def test_what_goes():
    weights = {"w": numbers(4, 4), "same": numbers(4, 4), "one": np.float32([1]), "unread": numbers(3)}
    text = """(float[N,4] x) => (float[N,4] y) {
        two = Add(one, one)
        a = MatMul(x, w)
        b = MatMul(a, same)
        c = Identity(b)
        dead = Relu(c)
        d = Mul(c, two)
        y = Identity(d)
    }"""
    model = graph(text, weights)
    after = cleaned(model)
    assert kinds(after) == ["MatMul", "MatMul", "Mul"]
    assert len(after.graph.initializers) == 2
    assert_same(model, after, {"x": numbers(3, 4)})


def test_an_input_that_is_an_output_keeps_its_identity():
    model = graph("(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Identity(x)  z = Identity(y) }", {})
    after = cleaned(model)
    assert_same(model, after, {"x": numbers(3, 4)})


def test_a_branch_that_gives_out_an_outer_value():
    branches = [
        onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], [name])], name, [], [_tensor(name)]) for name in "tf"
    ]
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"]),
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    inputs = [_tensor("x"), onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", inputs, [_tensor("y")]),
        opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8,
    )  # fmt: skip
    model = ir.from_proto(proto)
    after = cleaned(model)
    assert len({node.name for node in after.graph.all_nodes()}) == 4
    assert_same(model, after, {"x": numbers(3, 4), "c": np.array(True)}, tolerance=0)


def _tensor(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4])


def test_functions_are_put_in():
    double = onnx.helper.make_function(
        "local", "Double", ["a"], ["b"], [onnx.helper.make_node("Add", ["a", "a"], ["b"])], [onnx.helper.make_opsetid("", 18)]
    )
    calls = [
        onnx.helper.make_node("Double", ["x"], ["t"], domain="local"),
        onnx.helper.make_node("Double", ["t"], ["y"], domain="local"),
    ]
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("local", 1)]
    body = onnx.helper.make_graph(calls, "g", [_tensor("x")], [_tensor("y")])
    model = ir.from_proto(onnx.helper.make_model(body, functions=[double], opset_imports=opsets, ir_version=8))
    after = cleaned(model)
    assert kinds(after) == ["Add", "Add"]
    assert not after.functions
    assert_same(model, after, {"x": numbers(3, 4)}, tolerance=0)


def test_large_results_are_not_computed_ahead():
    weights = {"w": numbers(300, 5), "shape": np.array([7, 300, 5], np.int64)}
    text = "(float[N,300] x) => (float[7,N,5] y, float[5,300] t) { e = Expand(w, shape)  y = MatMul(x, e)  t = Transpose(w) }"
    after = apply(CleanUp(result_limit=1000), graph(text, weights), (), ())[0]
    assert kinds(after) == ["Expand", "MatMul", "Transpose"]
    small = apply(CleanUp(), graph(text, weights), (), ())[0]
    assert kinds(small) == ["MatMul", "Transpose"]


def test_a_weight_of_a_branch_that_is_never_taken_goes():
    text = """(float[N,4] x) => (float[N,4] y) {
      h = If (c) <then_branch = a () => (t) { t = MatMul(x, w) }, else_branch = b () => (e) { e = MatMul(x, v) }>  y = Relu(h)
    }"""
    weights = {"c": np.array(True), "w": numbers(4, 4), "v": numbers(4, 4, seed=1)}
    after = apply(CleanUp(), graph(text, weights), (), ())[0]
    assert kinds(after) == ["MatMul", "Relu"]
    assert list(after.graph.initializers) == ["w"]
    assert_same(graph(text, weights), after, {"x": numbers(3, 4, seed=2)}, tolerance=0)


def test_old_files_list_weights_as_inputs():
    model = graph("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": numbers(4, 4)}, opset=8)
    model.ir_version = 3
    weight = model.graph.initializers["w"]
    model.graph.inputs.append(weight)
    before = run(model, {"x": numbers(3, 4)})
    CleanUp().apply(model)
    assert [value.name for value in model.graph.inputs] == ["x"]
    np.testing.assert_array_equal(run(model, {"x": numbers(3, 4)})[0], before[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.integers(1, 14))
def test_random_chains(seed, length):
    """Graphs that mix constants, copies and computed values, most of which can be folded."""
    random = np.random.default_rng(seed)
    known, lines = ["x", "w", "v"], []
    for index in range(length):
        first, second = random.choice(known, 2)
        lines.append(
            f"t{index} = " + random.choice([f"Identity({first})", f"Add({first}, {second})", f"Mul({first}, {second})"])
        )
        known.append(f"t{index}")
    text = f"(float[3,4] x) => (float[3,4] y, float[3,4] t{length - 1}) {{ {chr(10).join(lines)} y = Add(x, {random.choice(known)}) }}"
    model = graph(text, {"w": numbers(3, 4, seed=1), "v": numbers(3, 4, seed=2)})
    assert_same(model, cleaned(model), {"x": numbers(3, 4, seed=3)})
