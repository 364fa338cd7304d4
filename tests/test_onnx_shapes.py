"""Reshape targets that shapes prove, and those that they do not."""

import numpy as np
import pytest

from szilard.passes.onnx_clean_up import CleanUp
from szilard.passes.onnx_shapes import Proofs, constant_target, inferred_sizes, joins, unchanged

from .onnx_graphs import apply, assert_same, graph, kinds


@pytest.mark.parametrize(
    ("before", "after", "target"),
    [
        (("b", "n", 12), ("b", "n", 3, 4), [0, 0, 3, 4]),
        (("b", "n", 12), ("b", "n", None, 4), [0, 0, -1, 4]),
        (("b", "n", 12), ("b", 3, "n", 4), [0, 3, -1, 4]),
        (("b", "n", 12), ("m", 12), [-1, 12]),
        (("b", "n", 12), ("n", "b", 12), None),
        ((None, None, 12), (None, None, 12), None),
        (("b", 12), ("b", 0, 5), None),
        (None, ("b", 12), None),
    ],
)
def test_constant_target(before, after, target):
    assert constant_target(before, after) == target


def test_predicates():
    assert unchanged(("b", 3, "n"), ("b", 3, "m"))
    assert not unchanged(("b", None, "n"), ("b", None, "m"))
    assert not unchanged(("b", 3), ("b", 3, 1))
    assert joins(("b", "n", 12), ("b", "n", 3, 4))
    assert not joins((None, "n", 12), (None, "n", 3, 4))
    assert not joins(("n", "b", 12), ("b", "n", 3, 4))


HEADS = """(float[B,N,12] x, float[P,12] other) => (float[B,3,N,4] y, float[Q,R,12] z) {
    shape = Shape(x)
    batch = Gather<axis = 0>(shape, first)
    length = Gather<axis = 0>(shape, second)
    target = Concat<axis = 0>(batch, length, rest)
    r = Reshape(x, target)
    y = Transpose<perm = [0, 2, 1, 3]>(r)
    count = Shape<end = 1>(other)
    wide = Concat<axis = 0>(count, open)
    z = Reshape(x, wide)
}"""
WEIGHTS = {
    "first": np.array([0], np.int64),
    "second": np.array([1], np.int64),
    "rest": np.array([3, 4], np.int64),
    "open": np.array([-1, 12], np.int64),
}


def test_clean_up_fixes_what_it_can_prove():
    model = graph(HEADS, WEIGHTS)
    after, _ = apply(CleanUp(), model, (), ())
    assert kinds(after) == ["Concat", "Reshape", "Reshape", "Shape", "Transpose"]
    random = np.random.default_rng(0)
    for batch, length, rows in ((2, 5, 5), (4, 3, 2), (1, 1, 1)):
        feeds = {"x": random.standard_normal((batch, length, 12)).astype(np.float32)}
        assert_same(model, after, {**feeds, "other": random.standard_normal((rows, 12)).astype(np.float32)}, tolerance=0)


def test_sizes_left_between_nodes_are_not_believed():
    model = graph(HEADS, WEIGHTS)
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    by_name["r"].shape = type(model.graph.inputs[0].shape)([1, 7, 3, 4])
    known = inferred_sizes(model, {})
    assert known["r"] == ("B", "N", 3, 4)
    assert Proofs(known).of(by_name["r"]) == (("B", "N", 3, 4), (1, 7, 3, 4))


def test_an_output_alike_another_value():
    text = """(float[B,N,3] x, float[1,M,3] m) => (float[B,N,3] y) { s = Add(x, m) t = Tanh(s) y = Relu(t) }"""
    model = graph(text, {})
    assert inferred_sizes(model, {})["t"] != ("B", "N", 3)
    known = inferred_sizes(model, {"t": ("x", 5)})
    assert known["t"] == known["y"] == ("B", "N", 5)
    assert known["x"] == ("B", "N", 3)
    assert kinds(model) == ["Add", "Relu", "Tanh"]
