"""Nodes that compute the same are merged; those that only look the same are not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.passes.onnx_duplicates import merge_duplicates

from .onnx_graphs import assert_same, graph, kinds

X = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def merged(text: str):
    before = graph(text, {})
    after = before.clone()
    merge_duplicates(after)
    assert merge_duplicates(after) == 0
    return before, after


def test_chains_of_equal_nodes():
    before, after = merged("(float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Relu(x) c = Tanh(a) d = Tanh(b) y = Add(c, d) }")
    assert kinds(after) == ["Add", "Relu", "Tanh"]
    assert_same(before, after, X, tolerance=0)


def test_what_is_not_equal_stays():
    texts = [
        "(float[N,4] x) => (float[N,4] y) { a = Elu<alpha = 0.5>(x) b = Elu<alpha = 0.25>(x) y = Sub(a, b) }",
        "(float[N,4] x) => (float[N,4] y) { a = RandomUniformLike(x) b = RandomUniformLike(x) y = Sub(a, b) }",
        "(float[N,4] x) => (float[N,4] a, float[N,4] b) { a = Relu(x) b = Relu(x) }",
    ]
    for text in texts:
        before, after = merged(text)
        assert kinds(after) == kinds(before)


def test_an_output_takes_the_place_of_what_comes_after_it_only():
    before, after = merged("(float[N,4] x) => (float[N,4] a, float[N,4] y) { a = Relu(x) b = Relu(x) y = Tanh(b) }")
    assert kinds(after) == ["Relu", "Tanh"]
    assert_same(before, after, X, tolerance=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_graphs(seed):
    random = np.random.default_rng(seed)
    names, lines = ["x"], []
    for index in range(12):
        first, second = random.choice(names, 2)
        lines.append(f"t{index} = " + random.choice([f"Relu({first})", f"Tanh({first})", f"Sub({first}, {second})"]))
        names.append(f"t{index}")
    before, after = merged(f"(float[N,4] x) => (float[N,4] t11) {{ {' '.join(lines)} }}")
    assert_same(before, after, X, tolerance=0)
