"""The padding mask of a fused attention in one more column of its queries and keys, behind linears of every form; and
passes/onnx_wider_columns.py."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.plan import Choice
from szilard.cost_model.sites import AttentionSite, LinearSite
from szilard.cost_model.view_onnx import view_onnx
from szilard.kernels.quantized_linear.formats import ONNX_FORMATS, prepare_group
from szilard.passes.find import find
from szilard.passes.onnx_attention import FuseAttention
from szilard.passes.onnx_keyed_attention import MaskInKeys, refusal
from szilard.passes.onnx_merge_linear import MergeLinear
from szilard.passes.onnx_quantize_linear import QuantizeLinears

from .onnx_graphs import apply, choose, graph, kinds, run

TEXT = """(float[B,N,11] x, {mask} keep) => (float[B,N,{joined}] y) {{
    q0 = MatMul(x, wq) {query} k0 = MatMul(x, wk) k1 = Add(k0, bk) v1 = MatMul(x, wv)
    q4 = Reshape(q1, split) qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k1, split) kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    v4 = Reshape(v1, split) vh = Transpose<perm = [0, 2, 1, 3]>(v4)
    p = MatMul(qh, kt) s = Mul(p, scale) {masked} w0 = Softmax<axis = -1>(m) {guard}
    a = MatMul(w, vh) t = Transpose<perm = [0, 2, 1, 3]>(a) {second} y = Reshape(t, join)
}}"""
MASKS = {
    "boolean": ("bool[B,1,1,N]", "m = Where(keep, s, low)"),
    "inverted": ("bool[B,1,N,N]", "m = Where(keep, low, s)"),
    "additive": ("float[B,1,1,N]", "m = Add(s, keep)"),
}


def case(mask="boolean", heads=3, bias=True, guard=False, second="", dim=4):
    random = np.random.default_rng(heads)
    width = heads * dim
    arrays = {name: random.standard_normal((11, width)).astype(np.float32) / 3 for name in ("wq", "wk", "wv")}
    arrays |= {"bq": random.standard_normal(width).astype(np.float32), "bk": random.standard_normal(width).astype(np.float32)}
    arrays |= {"split": np.array([0, 0, heads, dim]), "join": np.array([0, 0, width]), "scale": np.array(0.6, np.float32)}
    arrays |= {"low": np.array(-3.0e38, np.float32), "zero": np.array(0, np.float32)}
    text = TEXT.format(
        mask=MASKS[mask][0], masked=MASKS[mask][1], joined=width, second=second,
        query="q1 = Add(q0, bq)" if bias else "q1 = Identity(q0)" if second else "q1 = Add(bq, q0)",
        guard="n = IsNaN(w0) w = Where(n, zero, w0)" if guard else "w = Identity(w0)",
    ).replace("q1 = Identity(q0)", "").replace("w = Identity(w0)", "")  # fmt: skip
    if not guard:
        text = text.replace("w0 = Softmax", "w = Softmax")
    if not bias:
        text = text.replace("q1 = Add(bq, q0)", "").replace("q0 = MatMul", "q1 = MatMul")
    used = {name: array for name, array in arrays.items() if name in text.replace(")", ",").replace(",", " ").split()}
    return graph(text, used)


def fed(mask, batch, length, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((batch, length, 11)).astype(np.float32)
    there = random.random((batch, 1, 1, length)) < 0.7
    there[..., 0] = True
    if mask == "additive":
        return {"x": x, "keep": np.where(there, 0, -3.4e38).astype(np.float32)}
    return {"x": x, "keep": there if mask == "boolean" else np.broadcast_to(~there, (batch, 1, length, length)).copy()}


def sites_of(model, feeds):
    net = view_onnx(model, {name: array.shape for name, array in feeds.items()}, feeds)
    found = find(net).sites
    attention = replace(next(site for site in found if isinstance(site, AttentionSite)), pads_keys=True)
    return net, attention, tuple(site for site in found if isinstance(site, LinearSite))


def written(model, attention, linears, form, action):
    """The model with fused (and keyed) attention and linears of that form."""
    every = [attention, *linears]
    model, changed = apply(FuseAttention(), model, [choose(action, attention)], every)
    assert changed == 1
    names = {site.id: site for site in every}
    choice = Choice("linears", "linear", form, (), tuple(site.id for site in linears), "onnxruntime", "")
    if form == "merged":
        MergeLinear().apply(model, [choice], names)
    elif form != "leave":
        net = view_onnx(model, {"x": (2, 5, 11), "keep": (2, 1, 1, 5)})
        weights = [np.array(net.array(site.weight)) for site in linears]
        biases = [np.array(net.array(site.bias)) if site.bias else None for site in linears]
        x = np.random.default_rng(1).standard_normal((60, 11)).astype(np.float32)
        made = prepare_group(form.removesuffix("_merged"), weights, biases, x)
        prepared = {site.id: each for site, each in zip(linears, made, strict=True)}
        assert QuantizeLinears(prepared).apply(model, [choice], names) == 3
    return model


FORMS = ["leave", "merged", *ONNX_FORMATS, *(f"{name}_merged" for name in ONNX_FORMATS)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("bias", "shaped"), [(True, True), (False, True), (True, False)])
def test_every_form_of_linear_gets_the_columns(form, bias, shaped):
    model = case(bias=bias)
    if not shaped:
        # As files of torch's older exporter are: no value inside has a shape, and x is one inside.
        node = ir.node("Identity", [model.graph.inputs[0]], name="start", outputs=[ir.Value(name="inner")])
        model.graph.inputs[0].replace_all_uses_with(node.outputs[0])
        node.replace_input_with(0, model.graph.inputs[0])
        model.graph.insert_before(model.graph[0], node)
    feeds = fed("boolean", 2, 5)
    net, attention, linears = sites_of(model, feeds)
    assert refusal(attention, net) == ""
    fused = written(model, attention, linears, form, "fused_attention")
    ready = written(model, attention, linears, form, "keyed_attention")
    after, changed = apply(MaskInKeys(), ready, [choose("keyed_attention", attention)], [attention, *linears])
    assert changed == 1
    (node,) = [node for node in after.graph if node.op_type == "MultiHeadAttention"]
    assert len(node.inputs) == 3
    for batch, length in ((2, 5), (1, 1), (3, 8)):
        given = fed("boolean", batch, length, seed=length)
        (expected,), (found,) = run(fused, given), run(after, given)
        np.testing.assert_allclose(found, expected, rtol=3e-5, atol=3e-5)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(MASKS)), st.integers(1, 4), st.integers(2, 5), st.booleans(), st.booleans(), st.integers(1, 6))
def test_every_mask(mask, heads, dim, bias, guard, length):
    model, feeds = case(mask, heads, bias, guard, dim=dim), fed(mask, 2, length)
    _, attention, linears = sites_of(model, fed(mask, 2, 5))
    ready = written(model, attention, linears, "leave", "keyed_attention")
    after, changed = apply(MaskInKeys(), ready, [choose("keyed_attention", attention)], [attention, *linears])
    assert changed == 1
    assert "IsNaN" not in kinds(after)
    assert kinds(after).count("Where") == (mask != "additive")
    np.testing.assert_allclose(run(after, feeds)[0], run(model, feeds)[0], rtol=3e-5, atol=3e-5)


def test_queries_that_are_read_elsewhere_keep_the_mask_apart():
    model = case(second="t2 = Identity(q1)")
    _, attention, linears = sites_of(model, fed("boolean", 2, 5))
    model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.op_type == "Identity"))
    ready = written(model, attention, linears, "leave", "keyed_attention")
    _, changed = apply(MaskInKeys(), ready, [choose("keyed_attention", attention)], [attention, *linears])
    assert changed == 0


@pytest.mark.parametrize(
    "change", [{"pads_keys": False}, {"mask_is_causal": True}, {"causal": True}, {"sink": "s"}, {"kv_heads": 1}]
)
def test_other_masks_are_refused(change):
    net, attention, _ = sites_of(case(), fed("boolean", 2, 5))
    assert refusal(replace(attention, **change), net) != ""
