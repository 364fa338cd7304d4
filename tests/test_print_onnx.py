"""Printed ONNX graphs are valid Python that computes, with a stand-in for `op`, what the model computes, whatever names it holds."""

import difflib

import numpy as np
import onnx_ir as ir
import pytest

from szilard.rewriter.print_onnx import print_onnx

from .onnx_graphs import run
from .onnx_texts import model, normal


class Operators:
    """The operators of the graphs below, in numpy."""

    Add, MatMul, Neg = staticmethod(np.add), staticmethod(np.matmul), staticmethod(np.negative)

    @staticmethod
    def If(condition, then_branch, else_branch):
        return then_branch() if condition else else_branch()

    @staticmethod
    def Loop(count, condition, carried, body):
        for turn in range(int(count)):
            condition, carried = body(turn, condition, carried)
        return carried

    @staticmethod
    def Identity(x):
        return x

    @staticmethod
    def Elu(x, alpha):
        return np.where(x < 0, alpha * np.expm1(x), x)

    @staticmethod
    def Split(x, axis, num_outputs):
        return np.array_split(x, num_outputs, axis)


def executed(text: str, graph: ir.Model, *inputs) -> list:
    """The printed function on `inputs`, called with the model's weights."""
    space: dict = {}
    exec(compile(text, "printed", "exec"), space)
    weights = {n: v.const_value.numpy() for inner in graph.graphs() for n, v in inner.initializers.items()}
    found = space["model"](Operators, *inputs, weights)
    return list(found) if isinstance(found, tuple) else [found]


def two_branches() -> ir.Model:
    text = """(float[N,3] x, bool c) => (float[N,3] y, float[N,3] z) {
        a = Add(x, w)
        y = If (c) <
            then_branch = then_graph () => (float[N,3] t) { t = Add(a, w) },
            else_branch = else_graph () => (float[N,3] e) { d = Neg(a) e = Elu <alpha = 0.5> (d) }
        >
        z = Neg(y)
    }"""
    return model(text, {"w": normal(0, 1, 3)})


@pytest.mark.parametrize("condition", [True, False])
def test_branches_are_functions_that_the_call_names(condition):
    graph, x = two_branches(), normal(1, 5, 3)
    text = print_onnx(graph)
    for got, want in zip(executed(text, graph, x, condition), run(graph, {"x": x, "c": np.array(condition)}), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert "y = op.If(c, else_branch=n1_else_branch, then_branch=n1_then_branch)" in text


def test_the_body_of_a_loop_has_its_inputs():
    text = """(int64 n, float[3] x) => (float[3] y) {
        y = Loop (n, , x) <body = turns (int64 i, bool go, float[3] s) => (bool on, float[3] t) { on = Identity(go) t = Add(s, w) }>
    }"""
    graph, x = model(text, {"w": normal(2, 3)}), normal(3, 3)
    (got,) = executed(print_onnx(graph), graph, 4, x)
    np.testing.assert_allclose(got, run(graph, {"n": np.array(4), "x": x})[0], rtol=1e-6)


def test_odd_names_stay_apart():
    """Names that are no identifiers, that a keyword or an argument has, or that differ only in what an identifier cannot hold."""
    text = """(float[N,4] a, float[N,4] b, float[N,4] c, float[N,4] d) => (float[N,2] y, float[N,2] z) {
        e = Add(a, w)
        f = Add(e, b)
        g = Neg(f)
        h = Add(g, c)
        i = Add(h, d)
        y, z = Split <axis = 1, num_outputs = 2> (i)
    }"""
    graph = model(text, {"w": normal(0, 1, 4)})
    odd = {
        "a": "op",
        "b": "weights",
        "c": "/x.1",
        "d": "/x_1",
        "e": "class",
        "f": "é²",
        "g": "é³",
        "h": "0",
        "i": "model",
        "w": 'q"\\w',
    }
    for value in [*graph.graph.inputs, *graph.graph.initializers.values(), *(v for node in graph.graph for v in node.outputs)]:
        value.name = odd.get(value.name, value.name)
    inputs = [normal(seed, 3, 4) for seed in range(4)]
    printed = print_onnx(graph)
    wanted = run(graph, {value.name: x for value, x in zip(graph.graph.inputs, inputs, strict=True)})
    for got, want in zip(executed(printed, graph, *inputs), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_attributes_of_every_type_are_python():
    """Tensors, infinities, lists and strings; an output that is left out; a domain with a dash; no inputs at all."""
    graph = model("() => (float[2,3] y) { y, m = Dropout(x) }", {"x": normal(0, 2, 3)})
    (node,) = graph.graph
    node.outputs[1].name = ""
    node.domain = "my-domain.ops"
    tensor = ir.tensor(np.arange(3.0))
    for attribute in (
        ir.AttrTensor("value", tensor),
        ir.AttrTensors("values", [tensor]),
        ir.AttrFloat32("low", float("-inf")),
        ir.AttrInt64s("axes", [0, -1]),
        ir.AttrString("text", "a'b\n"),
        ir.AttrStrings("texts", ["a", "b"]),
        ir.AttrTypeProto("kind", ir.TypeAndShape(ir.TensorType(ir.DataType.FLOAT), None)),
    ):
        node.attributes.add(attribute)
    text = print_onnx(graph)
    compile(text, "printed", "exec")
    assert "def model(op, weights):" in text
    assert 'y, _ = op.my_domain_ops.Dropout(weights["x"], axes=[0, -1]' in text
    assert 'value=tensor("double", [3])' in text
    assert "low=-inf" in text


def test_one_changed_node_is_one_changed_line():
    before, after = two_branches(), two_branches()
    next(node for node in after.graph if node.op_type == "Add").op_type = "Sub"
    lines = difflib.unified_diff(print_onnx(before).splitlines(), print_onnx(after).splitlines(), lineterm="", n=0)
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    assert [line.split("=")[1].split("(")[0] for line in changed] == [" op.Add", " op.Sub"]
    assert print_onnx(before) == print_onnx(two_branches())


def test_types_are_comments():
    graph = model("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    assert "y = op.Neg(x)  # float[N, 3]" in print_onnx(graph)
    graph.graph.outputs[0].shape = None
    assert "y = op.Neg(x)  # float\n" in print_onnx(graph)
