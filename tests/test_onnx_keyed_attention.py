"""The padding mask of a fused attention in one more column of its queries and keys, behind linears of every form; and
passes/onnx_wider_columns.py."""

import re
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Choice
from szilard.cost_model.sites import AttentionSite, LinearSite
from szilard.cost_model.view_onnx import view_onnx
from szilard.kernels.quantized_linear.formats import ONNX_FORMATS, prepare_group
from szilard.passes.find import find
from szilard.passes.onnx_attention import FuseAttention, layout_ops
from szilard.passes.onnx_attention import refusal as fused_refusal
from szilard.passes.onnx_extract import extract
from szilard.passes.onnx_keyed_attention import MaskInKeys, refusal
from szilard.passes.onnx_merge_linear import MergeLinear
from szilard.passes.onnx_quantize_linear import QuantizeLinears

from .onnx_graphs import apply, choose, graph, kinds, run

TEXT = """({inputs}float[B,N,11] x, {mask} keep) => (float[B,N,{joined}] y) {{
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


def case(mask="boolean", heads=3, bias=True, guard=False, second="", dim=4, queries=None, inputs=""):
    random = np.random.default_rng(heads)
    width = heads * dim
    arrays = {name: random.standard_normal((11, width)).astype(np.float32) / 3 for name in ("wq", "wk", "wv")}
    arrays |= {"bq": random.standard_normal(width).astype(np.float32), "bk": random.standard_normal(width).astype(np.float32)}
    arrays |= {"split": np.array([0, 0, heads, dim]), "join": np.array([0, 0, width]), "scale": np.array(0.6, np.float32)}
    arrays |= {"low": np.array(-3.0e38, np.float32), "zero": np.array(0, np.float32), "half": np.array(0.5, np.float32)}
    arrays["sizes"] = np.array([5, 5])
    text = TEXT.format(
        mask=MASKS[mask][0], masked=MASKS[mask][1], joined=width, second=second, inputs=inputs,
        query="q1 = Add(q0, bq)" if bias else "q1 = Identity(q0)" if second else "q1 = Add(bq, q0)",
        guard="n = IsNaN(w0) w = Where(n, zero, w0)" if guard else "w = Identity(w0)",
    ).replace("q1 = Identity(q0)", "").replace("w = Identity(w0)", "")  # fmt: skip
    if not guard:
        text = text.replace("w0 = Softmax", "w = Softmax")
    if not bias:
        text = text.replace("q1 = Add(bq, q0)", "").replace("q0 = MatMul", "q1 = MatMul")
    if queries is not None:
        text = text.replace("q0 = MatMul(x, wq) q1 = Add(q0, bq)", queries)
    used = {name: array for name, array in arrays.items() if name in re.findall(r"\w+", text)}
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
    read = {value.name for node in after.graph for value in node.inputs if value is not None}
    assert set(after.graph.initializers) <= read
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


def keyed(model, feeds):
    """The model with its attention fused and the mask in its keys."""
    _, attention, linears = sites_of(model, feeds)
    ready = written(model, attention, linears, "leave", "keyed_attention")
    return apply(MaskInKeys(), ready, [choose("keyed_attention", attention)], [attention, *linears])


def test_queries_that_are_read_elsewhere_keep_the_mask_apart():
    model = case(second="t2 = Identity(q1)")
    model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.op_type == "Identity"))
    with pytest.raises(InputError, match=r"makes the queries of attention .* choose fused_attention"):
        keyed(model, fed("boolean", 2, 5))


@pytest.mark.parametrize(
    ("inputs", "queries"),
    [
        ("float[B,N,12] q1, ", ""),
        ("", "z = Concat<axis = 1>(x, x) q0 = MatMul(z, wq) q1, q2 = Split<axis = 1>(q0, sizes)"),
    ],
)
def test_queries_that_no_linear_can_widen_keep_the_mask_apart(inputs, queries):
    feeds = fed("boolean", 2, 5)
    if inputs:
        feeds["q1"] = np.random.default_rng(3).standard_normal((2, 5, 12)).astype(np.float32)
    with pytest.raises(InputError, match="makes the queries of attention"):
        keyed(case(inputs=inputs, queries=queries), feeds)


@pytest.mark.parametrize("factor", ["Mul(q2, half)", "Mul(half, q2)"])
def test_a_factor_on_the_queries_is_no_obstacle(factor):
    model, feeds = case(queries=f"q0 = MatMul(x, wq) q2 = Add(q0, bq) q1 = {factor}"), fed("boolean", 2, 5)
    after, changed = keyed(model, feeds)
    assert changed == 1
    np.testing.assert_allclose(run(after, feeds)[0], run(model, feeds)[0], rtol=3e-5, atol=3e-5)


def test_the_inputs_of_a_part_that_is_cut_out_get_the_columns():
    model = case()
    net, attention, _ = sites_of(model, fed("boolean", 2, 5))
    part = extract(model, net, [*attention.ops, *layout_ops(attention, net)])
    for rewrite in (FuseAttention(), MaskInKeys()):
        assert rewrite.apply(part, [choose("keyed_attention", attention)], {attention.id: attention}) == 1
    widths = {value.name: value.shape[-1] for value in part.graph.inputs}
    assert (widths["q1"], widths["k1"], widths["v1"]) == (15, 15, 12)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pads_keys": False}, "no mask that hides the same keys"),
        ({"mask_is_causal": True}, "no mask that hides the same keys"),
        ({"sink": "s"}, "keep its mask apart"),
    ],
)
def test_other_masks_are_refused(change, sentence):
    net, attention, _ = sites_of(case(), fed("boolean", 2, 5))
    site = replace(attention, **change)
    assert fused_refusal(site, net) == ""
    assert sentence in refusal(site, net)


def test_a_mask_of_each_head_is_refused():
    net, attention, _ = sites_of(case(), fed("boolean", 2, 5))
    wide = replace(net, values={**net.values, "keep": replace(net.values["keep"], shape=(2, 3, 1, 5))})
    assert fused_refusal(attention, wide) == ""
    assert "keep its mask apart" in refusal(attention, wide)
