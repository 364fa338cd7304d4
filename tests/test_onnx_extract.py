"""A few nodes cut out of a model compute what they compute in it, as they are and rewritten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.cost_model.view_onnx import view_onnx
from szilard.passes.onnx_attention import FuseAttention, layout_ops
from szilard.passes.onnx_extract import extract
from szilard.passes.onnx_merge_linear import MergeLinear

from .onnx_attentions import Spelling, attention, feeds, found
from .onnx_graphs import apply, assert_same, choose, graph, kinds, run
from .test_onnx_merge_linear import linears

CHAIN = """(float[N,4] x) => (float[N,4] y, float[N,4] b) {
    a = MatMul(x, w)
    b = Add(a, bias)
    c = Tanh(b)
    d = Mul(c, a)
    y = Relu(d)
}"""


def chain():
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 4)).astype(np.float32), "bias": random.standard_normal(4).astype(np.float32)}
    model = graph(CHAIN, weights)
    return model, view_onnx(model, {"x": (5, 4)}), {"x": random.standard_normal((5, 4)).astype(np.float32)}


@settings(max_examples=25, deadline=None)
@given(ids=st.sets(st.sampled_from(["n0", "n1", "n2", "n3", "n4"]), min_size=1))
def test_every_part_of_a_chain(ids):
    model, net, arrays = chain()
    part = extract(model, net, ids)
    assert {node.name for node in part.graph} == ids
    w, bias = (model.graph.initializers[name].const_value.numpy() for name in ("w", "bias"))
    values = {**arrays, "a": arrays["x"] @ w}
    values["b"] = values["a"] + bias
    values["c"] = np.tanh(values["b"])
    values["d"] = values["c"] * values["a"]
    values["y"] = np.maximum(values["d"], 0)
    results = run(part, {str(value.name): values[str(value.name)] for value in part.graph.inputs})
    for output, result in zip(part.graph.outputs, results, strict=True):
        np.testing.assert_allclose(result, values[str(output.name)], atol=1e-6)


def test_interface_and_shared_weights():
    model, net, _ = chain()
    part = extract(model, net, ["n1", "n2"])
    assert [(value.name, value.shape.numpy()) for value in part.graph.inputs] == [("a", (5, 4))]
    assert [value.name for value in part.graph.outputs] == ["b", "c"]
    assert list(part.graph.initializers) == ["bias"]
    assert part.graph.initializers["bias"].const_value is model.graph.initializers["bias"].const_value
    assert part.graph.initializers["bias"] is not model.graph.initializers["bias"]
    assert len(model.graph) == 5


@pytest.mark.parametrize("computed", [True, False])
def test_passes_apply_to_the_part(computed):
    spelling = Spelling(mask="B11S", mask_kind="boolean", named_axes=False, computed=computed)
    arrays = feeds(spelling, np.random.default_rng(0), 2, 5, 7)
    model = attention(spelling)
    net, (site,) = found(model, arrays)
    part = extract(model, net, [*site.ops, *layout_ops(site, net)])
    after, changed = apply(FuseAttention(), part, [choose("fused_attention", site)], [site])
    assert changed == 1
    assert kinds(after) == ["Expand", "MultiHeadAttention", "Where"]
    names = {str(value.name): arrays[str(value.name)] for value in part.graph.inputs}
    assert_same(part, after, names)


def test_a_group_of_linears():
    model, sites, arrays = linears(["add", "matmul", "transposed"], [3, 4, 5], np.random.default_rng(0))
    net = view_onnx(model, {"x": (5, 7)})
    part = extract(model, net, [op for site in sites for op in site.ops])
    after, changed = apply(MergeLinear(), part, [choose("merged", *sites)], sites)
    assert changed == 3
    assert_same(model, after, arrays)


def test_shape_operands_become_constants():
    text = """(float[N,6] x, float[N,6] z) => (float[N,2,3] y) {
        s = Shape<end = 1>(z)
        t = Concat<axis = 0>(s, rest)
        r = Reshape(x, t)
        y = Relu(r)
    }"""
    model = graph(text, {"rest": np.array([2, 3], np.int64)})
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    part = extract(model, view_onnx(model, {"x": (5, 6), "z": (5, 6)}), ["n2", "n3"])
    assert [value.name for value in part.graph.inputs] == ["x"]
    np.testing.assert_array_equal(run(part, {"x": x})[0], np.maximum(x, 0).reshape(5, 2, 3))


def test_refusals():
    model, net, _ = chain()
    with pytest.raises(InputError, match="'m7' is not in the model"):
        extract(model, net, ["n1", "m7"])
