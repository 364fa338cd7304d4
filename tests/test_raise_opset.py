"""A model in a newer operator set computes what it did, or stays where it is with the reason."""

import numpy as np
import pytest

from szilard.rewriter import raise_opset as module
from szilard.rewriter.raise_opset import raise_opset
from szilard.rewriter.runtime_onnx import onnx_runner

from .onnx_texts import model, normal

OLD = """(float[N,2,6] x) => (float[N,6] y) {
    a = ReduceMean<axes = [1], keepdims = 1>(x)
    b = Squeeze<axes = [1]>(a)
    c = Softmax<axis = 1>(b)
    d = com.microsoft.QuickGelu(c)
    y = MatMul(d, w)
}"""
SAMPLE = {"x": normal(1, 3, 2, 6)}


def old(opset: int = 11):
    return model(OLD, {"w": normal(0, 6, 6)}, opset)


def outputs(graph) -> np.ndarray:
    with onnx_runner(graph) as run:
        return run(SAMPLE)["y"]


@pytest.mark.parametrize("opset", [11, 12])
def test_an_old_model_is_raised_and_computes_the_same(opset):
    graph = old(opset)
    before, product = outputs(graph), next(node.name for node in graph.graph if node.op_type == "MatMul")
    assert raise_opset(graph, 21, SAMPLE) == ""
    assert graph.opset_imports[""] == 21
    assert graph.ir_version >= 10
    np.testing.assert_allclose(outputs(graph), before, rtol=1e-5)
    # Sites are named after nodes, which keep their names; new ones get some.
    assert [node.name for node in graph.graph if node.op_type == "MatMul"] == [product]
    names = [node.name for node in graph.graph]
    assert all(names)
    assert len(set(names)) == len(names)


def test_a_new_model_keeps_its_operators():
    graph = model("(float[N,3] x) => (float[N,3] y) { y = Gelu(x) }", opset=22)
    assert raise_opset(graph, 21, {}) == ""
    assert (graph.opset_imports[""], graph.ir_version) == (22, 10)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "cannot be converted from opset 11 to 21 (RuntimeError: no adapter for Odd)"),
        ("stays", "cannot be converted from opset 11 to 21"),
        ("breaks", "converted from opset 11 to 21 it does not run (onnxruntime cannot load the model"),
        ("other numbers", "converted from opset 11 to 21 it computes other numbers"),
    ],
)
def test_a_model_that_cannot_be_converted_stays_and_says_why(monkeypatch, fault, words):
    real = module._convert

    def convert(copy, opset):
        if fault == "raises":
            raise RuntimeError("no adapter for Odd")
        if fault == "other numbers":
            real(copy, opset)
            gelu = next(node for node in copy.graph if node.op_type == "QuickGelu")
            gelu.outputs[0].replace_all_uses_with(gelu.inputs[0])
        elif fault == "breaks":
            copy.graph.opset_imports[""] = opset

    graph = old()
    before = outputs(graph)
    monkeypatch.setattr(module, "_convert", convert)
    assert words in raise_opset(graph, 21, SAMPLE)
    assert graph.opset_imports[""] == 11
    np.testing.assert_array_equal(outputs(graph), before)
