"""Times of nodes by onnxruntime's profiler: every node once a call, branches too, bodies of loops not, nothing left on the disk."""

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from szilard.rewriter import op_times_onnx
from szilard.rewriter.op_times_onnx import onnx_op_seconds, profiler_seconds

FLOAT = ir.DataType.FLOAT
SIZE = 600


def value(name: str, shape, dtype=FLOAT) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def model() -> ir.Model:
    """A large product, a sign change, an If that adds one or takes the exponential, and a Loop of three halvings."""
    x, yes = value("x", [SIZE, SIZE]), value("yes", [], ir.DataType.BOOL)
    product = ir.node("MatMul", [x, x], name="product")
    small = ir.node("Neg", [x], name="small")
    one = ir.Value(name="one", const_value=ir.tensor(np.ones(1, np.float32)))
    then = ir.node("Add", [product.outputs[0], one], name="then", outputs=[value("t", [SIZE, SIZE])])
    other = ir.node("Exp", [product.outputs[0]], name="other", outputs=[value("o", [SIZE, SIZE])])
    bodies = {
        "then_branch": ir.Graph([], then.outputs, nodes=[then], name="then_body"),
        "else_branch": ir.Graph([], other.outputs, nodes=[other], name="else_body"),
    }
    choice = ir.node("If", [yes], bodies, name="choice")
    turn, go, state = value("turn", [], ir.DataType.INT64), value("go", [], ir.DataType.BOOL), value("state", [SIZE, SIZE])
    half = ir.node("Mul", [state, one], name="half", outputs=[value("halved", [SIZE, SIZE])])
    on = ir.node("Identity", [go], name="on", outputs=[value("still", [], ir.DataType.BOOL)])
    body = ir.Graph([turn, go, state], [on.outputs[0], half.outputs[0]], nodes=[on, half], name="loop_body")
    three = ir.Value(name="three", const_value=ir.tensor(np.array(3, np.int64)))
    loop = ir.node("Loop", [three, yes, small.outputs[0]], {"body": body}, name="loop")
    outputs = [choice.outputs[0], loop.outputs[0]]
    for name, output in zip("yz", outputs, strict=True):
        output.name, output.type, output.shape = name, ir.TensorType(FLOAT), ir.Shape([SIZE, SIZE])
    nodes = [product, small, choice, loop]
    graph = ir.Graph([x, yes], outputs, nodes=nodes, initializers=[one, three], opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.fixture(scope="module")
def times():
    x = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    return onnx_op_seconds(model(), {"x": x, "yes": np.array(True)}, 6)


def test_each_node_has_a_time_for_each_call_and_loops_hold_those_of_their_bodies(times):
    assert set(times.samples) == {"product", "small", "choice", "then", "loop"}
    assert {len(found) for found in times.samples.values()} == {6}


def test_an_if_holds_its_branch_and_the_largest_op_takes_longest(times):
    medians = {name: times.timing([name]).median for name in times.samples}
    assert medians["choice"] > medians["then"]
    assert max(medians, key=medians.get) == "product"


def test_what_the_profiler_adds_is_taken_off(monkeypatch):
    def profile(model, feeds, runs):
        chain = model.graph.name == "chain"
        return {"a": [2e-6 if chain else 9e-6] * runs, "b": [4e-6 if chain else 2e-6] * runs}

    # A busy machine took a chain of 1.3 us an op, which is no matter of this test.
    plain = SimpleNamespace(median=0.5e-6 * op_times_onnx._CHAIN)
    monkeypatch.setattr(op_times_onnx, "measure_interleaved", lambda *_, **__: {"chain": plain})
    monkeypatch.setattr(op_times_onnx, "_profile", profile)
    added = profiler_seconds(5)
    assert added == pytest.approx(2.5e-6)  # the mean of the medians, less what the chain takes without a profiler
    monkeypatch.setattr(op_times_onnx, "profiler_seconds", lambda runs: added)
    found = onnx_op_seconds(model(), {}, 2)
    assert found.added == added
    assert found.samples == {"a": (9e-6 - added,) * 2, "b": (2e-6 - added,) * 2}


def test_no_profile_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert profiler_seconds(5) < 1e-3
    assert list(tmp_path.iterdir()) == []
