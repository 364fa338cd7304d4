"""Attentions in many spellings, fused into MultiHeadAttention, give the same numbers at lengths other than those they were found at."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.passes.onnx_attention import FuseAttention, layout_ops, refusal
from szilard.passes.onnx_clean_up import CleanUp

from .onnx_attentions import LOWEST, Spelling, attention, feeds, found
from .onnx_graphs import apply, assert_same, choose, graph, kinds

spellings = st.builds(
    Spelling,
    heads=st.integers(2, 3), width=st.sampled_from([4, 5]), value_width=st.sampled_from([4, 7]),
    key=st.sampled_from(["direct", "twice", "input"]), scale=st.sampled_from(["scores", "query"]), packed=st.booleans(),
    mask_kind=st.sampled_from(["", "additive", "boolean", "inverted", "negated"]), fill=st.sampled_from([LOWEST, -np.inf]),
    guard=st.booleans(), layers=st.integers(1, 2), named_axes=st.booleans(), computed=st.booleans(), opset=st.sampled_from([13, 18]),
)  # fmt: skip


def fuse(model, arrays):
    _, sites = found(model, arrays)
    return apply(FuseAttention(), model, [choose("fused_attention", site) for site in sites], sites)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), spelling=spellings, data=st.data())
def test_fused_equals_spelled_out(seed, spelling, data):
    if spelling.mask_kind:
        shapes = ["B11S", "11NS", "1HNS", "BHNS", "B1N1", "NS", "1NS"]
        spelling = replace(spelling, mask=data.draw(st.sampled_from(shapes)))
    random = np.random.default_rng(seed)
    model = attention(spelling)
    after, changed = fuse(model, feeds(spelling, random, 2, 5, 7))
    assert changed == spelling.layers
    assert kinds(after).count("MultiHeadAttention") == spelling.layers
    assert not {"Softmax", "MatMul"} & set(kinds(after))
    for batch, queries, keys in ((2, 5, 7), (1, 9, 3), (3, 1, 1)):
        assert_same(model, after, feeds(spelling, random, batch, queries, keys))


@pytest.mark.parametrize("computed", [True, False])
def test_named_axes_leave_nothing_but_the_operator(computed):
    spelling = Spelling(mask="B1NS", mask_kind="additive", computed=computed)
    model = attention(spelling)
    CleanUp().apply(model)
    after, _ = fuse(model, feeds(spelling, np.random.default_rng(0), 2, 5, 7))
    assert kinds(after) == ["MultiHeadAttention", "Sum"]
    assert not after.graph.initializers


def test_layers_share_one_bias():
    spelling = Spelling(mask="B11S", mask_kind="boolean", layers=3)
    after, _ = fuse(attention(spelling), feeds(spelling, np.random.default_rng(0), 2, 5, 7))
    assert kinds(after).count("Where") == 1
    assert kinds(after).count("Expand") == 1


@pytest.mark.parametrize("computed", [True, False])
def test_what_the_fused_form_makes_needless(computed):
    spelling = Spelling(key="twice", computed=computed)
    net, (site,) = found(attention(spelling), feeds(spelling, np.random.default_rng(0), 2, 5, 7))
    targets = sorted(net.ops[op].target for op in (*site.ops, *layout_ops(site, net)))
    assert targets == sorted(["Reshape"] * (4 + computed) + ["Transpose"] * 5 + ["MatMul"] * 2 + ["Div", "Softmax"])


SEVERAL = """(float[B,N,24] q, float[B,S,8] k, float[B,S,8] v, float[12,1,S] slope, bool[B,1,1,S] keep,
    float[N,S] bias) => (float[B,N,24] y) {
    q4 = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, apart) ks = Transpose<perm = [0, 2, 1, 3]>(k4) k5 = Unsqueeze(ks, two) ke = Expand(k5, times)
    v4 = Reshape(v, apart) vs = Transpose<perm = [0, 2, 1, 3]>(v4) v5 = Unsqueeze(vs, two) ve = Expand(v5, times)
    kh = Reshape(ke, joined) vh = Reshape(ve, joined) kt = Transpose<perm = [0, 1, 3, 2]>(kh)
    qf = Reshape(qh, folded) kf = Reshape(kt, folded_t) p = MatMul(qf, kf) sloped = Add(p, slope) s4 = Reshape(sloped, unfolded)
    half = Mul(s4, scale) hidden = Where(keep, half, lowest) m = Sub(hidden, bias)
    w = Softmax<axis = -1>(m) a = MatMul(w, vh) t = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(t, join)
}"""


def test_shared_heads_and_masks_of_several_kinds():
    """Two key heads under six, and three masks: a slope of folded heads before the scale, a boolean one and one that is subtracted."""
    random = np.random.default_rng(0)
    numbers = {
        "split": [0, 0, 6, 4], "apart": [0, 0, 2, 4], "two": [2], "times": [1, 1, 3, 1, 1], "joined": [2, 6, -1, 4],
        "folded": [12, -1, 4], "folded_t": [12, 4, -1], "unfolded": [2, 6, -1, 7], "join": [0, 0, 24],
    }  # fmt: skip
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    constants |= {"scale": np.array(0.3, np.float32), "lowest": np.array(LOWEST, np.float32)}
    shapes = {"q": (2, 5, 24), "k": (2, 7, 8), "v": (2, 7, 8), "slope": (12, 1, 7), "bias": (5, 7)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["keep"] = random.random((2, 1, 1, 7)) < 0.7
    model = graph(SEVERAL, constants)
    net, (site,) = found(model, arrays)
    assert refusal(site, net) == ""
    assert (site.kv_heads, site.heads, site.mask_kind) == (2, 6, "several")
    assert [(mask.kind, mask.factor, mask.axes) for mask in site.masks] == [
        ("additive", pytest.approx(0.3), "BH1S"), ("boolean", 1.0, ""), ("additive", -1.0, "")
    ]  # fmt: skip
    after, changed = apply(FuseAttention(), model, [choose("fused_attention", site)], [site])
    assert changed == 1
    assert not {"Softmax", "MatMul"} & set(kinds(after))
    assert_same(model, after, arrays)


SINK = """(float[B,N,24] q, float[B,S,12] k, float[B,S,12] v{input}) => (float[B,N,24] y) {{
    q4 = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, apart) ks = Transpose<perm = [0, 2, 3, 1]>(k4) k5 = Unsqueeze(ks, two) ke = Expand(k5, times)
    v4 = Reshape(v, apart) vs = Transpose<perm = [0, 2, 1, 3]>(v4) v5 = Unsqueeze(vs, two) ve = Expand(v5, times)
    kt = Reshape(ke, joined_t) vh = Reshape(ve, joined) p = MatMul(qh, kt) half = Mul(p, scale) {mask}
    shape = Shape(qh) rows = Gather<axis = 0>(shape, leading) wide = Concat<axis = 0>(rows, one) column = Expand(sinks, wide)
    beside = Concat<axis = -1>({order}) most = ReduceMax<keepdims = 1>(beside, last) even = Sub(beside, most)
    w = Softmax<axis = -1>(even) cut = Slice({cut}) a = MatMul(cut, vh)
    t = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(t, join)
}}"""
MASKS = {"": ("", "m = Identity(half)"), "bool": (", bool[B,1,1,S] mask", "m = Where(mask, half, lowest)"),
         "float": (", float[B,1,N,S] mask", "m = Add(half, mask)")}  # fmt: skip


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("first", [True, False])
def test_a_sink_becomes_one_more_key(kind, first):
    """Three key heads under six, and one more logit for each query head; a row whose keys are all masked gives 0."""
    random = np.random.default_rng(0)
    numbers = {
        "split": [0, 0, 6, 4], "apart": [0, 0, 3, 4], "two": [2], "times": [1, 1, 2, 1, 1], "joined": [0, 6, -1, 4],
        "joined_t": [0, 6, 4, -1], "join": [0, 0, 24], "leading": [0, 1, 2], "one": [1], "last": [-1], "zero": [0], "far": [2**40],
    }  # fmt: skip
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    constants |= {"scale": np.array(0.3, np.float32), "lowest": np.array(-np.inf, np.float32)}
    constants["sinks"] = random.standard_normal((1, 6, 1, 1)).astype(np.float32)
    read, mask = MASKS[kind]
    order, cut = ("column, m", "w, one, far, last, one") if first else ("m, column", "w, zero, last, last, one")
    text = SINK.format(input=read, mask=mask, order=order, cut=cut)
    model = graph(text, {name: array for name, array in constants.items() if name in re.findall(r"\w+", text)})

    def arrays(batch, queries, keys):
        made = {
            name: random.standard_normal((batch, queries if name == "q" else keys, 24 if name == "q" else 12)) for name in "qkv"
        }
        seen = random.random((batch, 1, 1, keys) if kind == "bool" else (batch, 1, queries, keys)) < 0.7
        seen[0, :, 0] = False
        made |= {"mask": seen if kind == "bool" else np.where(seen, 0.5, LOWEST)} if kind else {}
        return {name: array if array.dtype == bool else array.astype(np.float32) for name, array in made.items()}

    net, (site,) = found(model, arrays(2, 5, 7))
    assert (refusal(site, net), site.kv_heads, bool(site.sink)) == ("", 3, True)
    after, changed = apply(FuseAttention(), model, [choose("fused_attention", site)], [site])
    assert changed == 1
    assert not {"Softmax", "MatMul"} & set(kinds(after))
    for sizes in ((2, 5, 7), (1, 1, 3), (3, 9, 1)):
        assert_same(model, after, arrays(*sizes))


CAPPED = """(float[B,N,24] q, float[B,S,12] k, float[B,S,12] v, bool[B,1,N,S] mask) => (float[B,N,24] y) {{
    q4 = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, apart) ks = Transpose<perm = [0, 2, 3, 1]>(k4) k5 = Unsqueeze(ks, two) ke = Expand(k5, times)
    v4 = Reshape(v, apart) vs = Transpose<perm = [0, 2, 1, 3]>(v4) v5 = Unsqueeze(vs, two) ve = Expand(v5, times)
    kt = Reshape(ke, joined_t) vh = Reshape(ve, joined) p = MatMul(qh, kt) s = Mul(p, scale)
    over = Div(s, cap) bent = Tanh(over) c = Mul(bent, cap) {mask}
    w = Softmax<axis = -1>(m) a = MatMul(w, vh) t = Transpose<perm = [0, 2, 1, 3]>(a) y = Reshape(t, join)
}}"""
CAPPED_MASKS = {"boolean": "m = Where(mask, c, low)", "additive": "bias = Where(mask, zero, low) m = Add(c, bias)",
                "computed": "bias = Cast<to = 1>(mask) m = Add(c, bias)"}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "low", "opset", "sentence"),
    [
        ("boolean", LOWEST, 23, ""),
        ("additive", LOWEST, 23, ""),
        ("boolean", LOWEST, 18, "convert the model to opset 23"),
        ("boolean", -np.inf, 23, "may be infinite"),
        ("additive", -np.inf, 23, "may be infinite"),
        ("computed", LOWEST, 23, "may be infinite"),
    ],
)
def test_capped_scores_become_the_standard_operator(kind, low, opset, sentence):
    """Three key heads under six; a row whose keys are all masked stays the mean of the values."""
    random = np.random.default_rng(0)
    numbers = {
        "split": [0, 0, 6, 4], "apart": [0, 0, 3, 4], "two": [2], "times": [1, 1, 2, 1, 1], "joined": [0, 6, -1, 4],
        "joined_t": [0, 6, 4, -1], "join": [0, 0, 24],
    }  # fmt: skip
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    constants |= {
        name: np.array(value, np.float32) for name, value in (("scale", 0.7), ("cap", 1.5), ("low", low), ("zero", 0))
    }
    text = CAPPED.format(mask=CAPPED_MASKS[kind])
    model = graph(text, {name: array for name, array in constants.items() if name in re.findall(r"\w+", text)}, opset=opset)

    def arrays(batch, queries, keys):
        made = {
            name: random.standard_normal((batch, queries if name == "q" else keys, 24 if name == "q" else 12)) for name in "qkv"
        }
        seen = random.random((batch, 1, queries, keys)) < 0.7
        seen[0, :, 0] = False
        return {name: array.astype(np.float32) for name, array in made.items()} | {"mask": seen}

    net, (site,) = found(model, arrays(2, 5, 7))
    assert site.softcap == 1.5
    said = refusal(site, net)
    assert (sentence in said) if sentence else said == ""
    if said:
        return
    after, changed = apply(FuseAttention(), model, [choose("fused_attention", site)], [site])
    assert (changed, kinds(after).count("Attention")) == (1, 1)
    assert not {"Softmax", "MatMul", "Tanh"} & set(kinds(after))
    assert "com.microsoft" not in after.opset_imports
    for sizes in ((2, 5, 7), (1, 1, 3), (3, 9, 1)):
        assert_same(model, after, arrays(*sizes))


OPERATOR = """(float[B,N,12] q, float[B,S,12] k, float[B,S,12] v{mask}) => (float[B,N,12] y) {{
    q4 = Reshape(q, split) qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, split) kh = Transpose<perm = [0, 2, 1, 3]>(k4)
    v4 = Reshape(v, split) vh = Transpose<perm = [0, 2, 1, 3]>(v4)
    a = Attention<scale = 0.3{causal}>(qh, kh, vh{read})
    t = Transpose<perm = [0, 2, 1, 3]>(a)
    y = Reshape(t, join)
}}"""


@pytest.mark.parametrize("kind", ["", "bool", "float", "causal"])
def test_the_attention_operator(kind):
    """A boolean mask hides all keys from the first row: the operator gives 0 there, and so must the fused form."""
    random = np.random.default_rng(0)
    mask = f", {kind}[1,1,N,S] mask" if kind in ("bool", "float") else ""
    text = OPERATOR.format(mask=mask, read=", mask" if mask else "", causal=", is_causal = 1" if kind == "causal" else "")
    constants = {"split": np.array([0, 0, 3, 4], np.int64), "join": np.array([0, 0, 12], np.int64)}
    model = graph(text, constants, opset=23)
    keys = 5 if kind == "causal" else 7
    arrays = {name: random.standard_normal((2, 5 if name == "q" else keys, 12)).astype(np.float32) for name in "qkv"}
    if mask:
        seen = random.random((1, 1, 5, keys)) < 0.6
        seen[:, :, 0] = False
        arrays["mask"] = seen if kind == "bool" else seen.astype(np.float32)
    net, (site,) = found(model, arrays)
    if kind == "float":
        assert "additive mask" in refusal(site, net)
        return
    assert refusal(site, net) == ""
    after, changed = apply(FuseAttention(), model, [choose("fused_attention", site)], [site])
    assert changed == 1
    assert "Attention" not in kinds(after)
    assert_same(model, after, arrays)


@pytest.mark.parametrize(
    ("spelling", "changes", "sentence"),
    [
        (Spelling(), {}, ""),
        (Spelling(), {"kv_heads": 1}, "do not have the form"),
        (Spelling(), {"form": "packed"}, "one operator already"),
        (Spelling(), {"softcap": 30.0}, "the operators of opset 18"),
        (Spelling(opset=23), {"softcap": 30.0, "form": "operator"}, "already is one operator"),
        (Spelling(), {"dtype": "float16"}, "is float16"),
        (Spelling(), {"scale": 0.0}, "has the scale 0"),
        (Spelling(), {"causal": True}, "is causal over 5 queries and 7 keys"),
        (Spelling(), {"head_dim": 5}, "do not have the form"),
        (Spelling(), {"mask": "v"}, "does not broadcast"),
        (Spelling(mask="NS", mask_kind="boolean", fill=-2e4), {}, "is not one constant near the smallest float32"),
        (Spelling(mask="NS", mask_kind="boolean"), {}, ""),
    ],
)
def test_refusals(spelling, changes, sentence):
    net, (site,) = found(attention(spelling), feeds(spelling, np.random.default_rng(0), 2, 5, 7))
    said = refusal(replace(site, **changes), net)
    assert (sentence in said) if sentence else said == ""
    assert said == "" or said.endswith(".")


@pytest.mark.parametrize(
    ("call", "heads"),
    [
        ("MultiHeadAttention<num_heads = 3>(q, k, v)", (3, 3, 4)),
        ("MultiHeadAttention<num_heads = 3, unidirectional = 1>(q, k, v)", (3, 3, 4)),
        ("Attention<num_heads = 3, unidirectional = 1>(q, w, b)", (3, 3, 4)),
    ],
)
def test_operators_of_onnxruntime_are_kept_as_they_are(call, heads):
    text = f"(float[2,5,12] q, float[2,5,12] k, float[2,5,12] v) => (float[2,5,12] y) {{ y = com.microsoft.{call} }}"
    weights = {"w": np.ones((12, 36), np.float32), "b": np.zeros(36, np.float32)} if "w, b" in call else {}
    arrays = {name: np.zeros((2, 5, 12), np.float32) for name in "qkv"}
    net, (site,) = found(graph(text, weights), arrays)
    assert (site.form, site.heads, site.kv_heads, site.head_dim, site.key_length) == ("packed", *heads, 5)
    assert site.causal == ("unidirectional" in call)
    assert "one operator already" in refusal(site, net) or "already is a Multi" in refusal(site, net)
