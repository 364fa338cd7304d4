"""Attention with heads folded into the batch axis is found and rewritten exactly, as torch (`fx_unfold_heads.py`) and as ONNX
(`onnx_unfold_heads.py`, `onnx_folded_layout.py`), at sizes other than those it was found at; look-alikes stay as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from szilard.cost_model.view_onnx import view_onnx
from szilard.passes.find_attention import find_attention
from szilard.passes.folded_heads import folded_attentions
from szilard.passes.fx_attention import FxAttention
from szilard.passes.fx_unfold_heads import unfold_heads
from szilard.passes.onnx_attention import FuseAttention, refusal
from szilard.passes.onnx_unfold_heads import unfold_heads as unfold_onnx

from .fx_graphs import aten, choice, cleaned, distance, net_of, run, sites_of, targets, traced
from .nets import NetBuilder
from .onnx_attentions import found
from .onnx_graphs import apply, assert_same, choose, graph, kinds

HEADS, DEPTH = 4, 5
WIDTH = HEADS * DEPTH


class MultiHead(nn.Module):
    """torch's own layer, asked for its weights as by default, as cross attention of x over y; x and y are [batch, length, width]."""

    def __init__(self, mask: str = "", batch_first: bool = True, **options: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.mask = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **options), mask

    def forward(self, x, y, pad):
        batch, queries, keys = x.shape[0], x.shape[1], y.shape[1]
        bias = (torch.arange(queries)[:, None] - torch.arange(keys)) * 0.3
        if "each" in self.mask:
            slopes = torch.linspace(0.1, 1, HEADS)[:, None, None] * bias
            bias = slopes.expand(batch, HEADS, queries, keys).reshape(batch * HEADS, queries, keys)
        bias = bias < -1 if "boolean" in self.mask else bias
        given = x, y, y
        if not self.layer.batch_first:
            given = tuple(each.transpose(0, 1) for each in given)
        mask, padding = (bias if self.mask.strip("+pad") else None), (pad if "pad" in self.mask else None)
        return self.layer(*given, attn_mask=mask, key_padding_mask=padding)[0]


def sample(batch: int = 3, queries: int = 7, keys: int = 6, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    pad = torch.rand(batch, keys, generator=generator) < 0.3
    pad[:, :2] = False
    x, y = (torch.randn(batch, length, WIDTH, generator=generator) for length in (queries, keys))
    return x, y, pad


def unfolded(program):
    """(clean graph, sites) after the heads were unfolded; a second time finds nothing to do."""
    graph = cleaned(program)
    assert unfold_heads(graph, net_of(graph, program)) == 1
    assert unfold_heads(graph, net_of(graph, program)) == 0
    return graph, sites_of(graph, program, "attention")


FREE = {"x": {0: "batch", 1: "n"}, "y": {0: "batch", 1: "s"}, "pad": {0: "batch", 1: "s"}}


@pytest.mark.parametrize(
    ("mask", "batch_first", "free", "options"),
    [
        ("", True, ("batch",), {}),
        ("", False, (), {}),
        ("plain", False, (), {}),
        ("boolean", True, (), {}),
        ("each", True, (), {}),
        ("pad", True, (), {}),
        ("plain+pad", True, (), {}),
        ("boolean+pad", False, (), {}),
        pytest.param("each+pad", True, ("batch", "n", "s"), {}, marks=pytest.mark.long),
        ("", True, (), {"add_zero_attn": True}),
        ("pad", True, (), {"add_bias_kv": True}),
    ],
)
def test_torchs_own_layer_becomes_one_operator(mask, batch_first, free, options):
    dynamic = {name: {axis: size for axis, size in axes.items() if size in free} for name, axes in FREE.items()}
    program = traced(MultiHead(mask, batch_first, **options), *sample(), dynamic=dynamic)
    graph, sites = unfolded(program)
    (site,) = sites.values()
    assert (site.batch, site.heads, site.kv_heads, site.head_dim) == (3, HEADS, HEADS, DEPTH)
    assert (site.query_length, site.key_length) == (7, 6 + len(options))
    assert (site.mask != "") == (mask != "")
    assert FxAttention().apply(graph, [choice("fused_attention", sites)], sites) == 1
    assert targets(graph).count(aten.scaled_dot_product_attention.default) == 1
    assert not {aten.bmm.default, aten.baddbmm.default, aten._softmax.default} & set(targets(graph))
    sizes_of = {"batch": (3, 2, 1), "n": (7, 9, 1), "s": (6, 5, 3)}
    for sizes in zip(*(each if axis in free else each[:1] * 3 for axis, each in sizes_of.items()), strict=True):
        other = dict(zip(("x", "y", "pad"), (each.numpy() for each in sample(*sizes, seed=4)), strict=True))
        assert distance(run(graph, program, **other), run(program.graph, program, **other)) < 1e-6


class AlsoWeights(MultiHead):
    def forward(self, x, y, pad):
        return self.layer(x, y, y)


def test_weights_that_are_given_out_stay_and_the_op_is_named():
    program = traced(AlsoWeights(), *sample())
    graph = cleaned(program)
    net = net_of(graph, program)
    assert unfold_heads(graph, net) == 0
    _, (miss,) = find_attention(net)
    assert net.ops[miss.op].kind == "softmax"
    assert "read more than once, by" in miss.reason


@st.composite
def nets(draw):
    """(net, heads, sizes) of folded attention in a random spelling on a hand-written net."""
    net = NetBuilder()
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    length, keys, depth, width = (draw(st.integers(2, 5)) for _ in range(4))
    together = draw(st.booleans())
    total = batch * heads

    def folded(name, rows, columns, swapped=False):
        """[N, B, H * D] as [B * H, N, D], or [B * H, D, N]."""
        value = net.input(name, *((rows * batch, heads * columns) if together else (rows, batch, heads * columns)))
        value = net.reshape(value, rows, total, columns)
        if swapped and draw(st.booleans()):
            return net.transpose(value, 1, 2, 0)
        value = net.transpose(value, 1, 0, 2)
        return net.transpose(value, 0, 2, 1) if swapped else value

    q, k, v = folded("q", length, depth), folded("k", keys, depth, swapped=True), folded("v", keys, width)
    if draw(st.booleans()):
        q = net.op("mul", q, net.number(0.5))
    scores = net.matmul(q, k)
    mask = draw(st.sampled_from(["", "rows", "all", "heads"]))
    if mask:
        shape = {"rows": (length, keys), "all": (total, length, keys), "heads": (batch, heads, 1, keys)}[mask]
        added = net.input("added", *shape)
        if mask == "heads":
            added = net.reshape(added, total, 1, keys)
        scores = net.op("add", added, scores)
    out = net.transpose(net.matmul(net.softmax(scores), v), 1, 0, 2)
    out = net.reshape(out, *((length * batch, heads * width) if draw(st.booleans()) else (length, batch, heads * width)))
    return net.net(net.op("relu", out)), (batch, heads, length, keys, depth)


@settings(max_examples=80, deadline=None)
@given(nets())
def test_every_spelling_says_its_number_of_heads(case):
    net, (batch, heads, length, keys, depth) = case
    assert find_attention(net)[0] == ()
    (found_here,) = folded_attentions(net)
    assert found_here.heads == heads
    shapes = [net.shape(value) for value in found_here.values]
    assert all(len(shape) == 3 and shape[0] == batch * heads for shape in shapes)
    assert len(shapes) == 4
    assert shapes[0] == (batch * heads, length, depth)
    assert shapes[1] in ((batch * heads, keys, depth), (batch * heads, depth, keys))
    wide, narrow = (net.shape(value)[axis] for value, axis in found_here.known_by)
    assert wide == heads * narrow


@pytest.mark.parametrize("spelling", ["unknown heads", "read elsewhere", "heads outermost"])
def test_look_alikes_are_left(spelling):
    """A first axis of which no size tells the heads, a product that is read twice, and heads that are the slow part of the axis."""
    net = NetBuilder()
    batch, heads, length, depth = 2, 3, 5, 4
    rows = []
    for name in "qkv":
        if spelling == "unknown heads":
            rows.append(net.transpose(net.input(name, length, batch * heads, depth), 1, 0, 2))
            continue
        value = net.reshape(net.input(name, length, batch, heads * depth), length, batch * heads, depth)
        if spelling == "heads outermost":
            value = net.reshape(value, length, batch, heads, depth)
            value = net.reshape(net.transpose(value, 2, 1, 0, 3), heads * batch, length, depth)
            rows.append(value)
            continue
        rows.append(net.transpose(value, 1, 0, 2))
    q, k, v = rows
    scores = net.matmul(q, net.transpose(k, 0, 2, 1))
    out = net.matmul(net.softmax(scores), v)
    if spelling == "read elsewhere":
        out = net.op("add", out, net.matmul(scores, v))
    net = net.net(net.op("relu", out))
    assert folded_attentions(net) == ()


FOLDED = """(float[N,B,12] q, float[S,B,12] k, float[S,B,12] v{inputs}) => (float[N,B,12] y) {{
    q3 = Reshape(q, folded) qh = Transpose<perm = [1, 0, 2]>(q3) qs = Mul(qh, scale)
    k3 = Reshape(k, folded) kt = Transpose<perm = [1, 2, 0]>(k3) v3 = Reshape(v, folded) vh = Transpose<perm = [1, 0, 2]>(v3)
    p = MatMul(qs, kt) {mask}
    w = Softmax<axis = -1>(m) a = MatMul(w, vh) t = Transpose<perm = [1, 0, 2]>(a) y = Reshape(t, joined)
}}"""
PADDED = """four = Reshape(mask, apart) wide = Expand(four, times) keys = Shape(mask) last = Gather<axis = 0>(keys, one)
    target = Concat<axis = 0>(open, one, last) folded_mask = Reshape(wide, target) m = Add(p, folded_mask)"""
MASKS = {
    "": ("", "m = Identity(p)"),
    "NS": (", float[N,S] mask", "m = Add(p, mask)"),
    "BHNS": (", float[G,N,S] mask", "m = Add(mask, p)"),
    "BS": (", float[B,S] mask", PADDED),
}


def feeds(mask, batch, queries, keys):
    random = np.random.default_rng(batch + queries)
    shapes = {"q": (queries, batch, 12), "k": (keys, batch, 12), "v": (keys, batch, 12)}
    shapes |= {"mask": {"NS": (queries, keys), "BHNS": (batch * 3, queries, keys), "BS": (batch, keys)}[mask]} if mask else {}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def onnx_model(mask, opset=18, heads=3):
    inputs, added = MASKS[mask]
    numbers = {"folded": [0, -1, 12 // heads], "joined": [0, -1, 12]}
    if mask == "BS":
        numbers |= {"apart": [0, 1, 1, -1], "times": [1, heads, 1, 1], "open": [-1], "one": [1]}
    constants = {name: np.array(value, np.int64) for name, value in numbers.items()}
    return graph(FOLDED.format(inputs=inputs, mask=added), {**constants, "scale": np.array(0.3, np.float32)}, opset=opset)


def net_at(model, arrays):
    return view_onnx(model, {name: array.shape for name, array in arrays.items()}, arrays)


@pytest.mark.parametrize("opset", [11, 18, 23])
@pytest.mark.parametrize("mask", MASKS)
def test_folded_onnx_attention_becomes_one_operator(mask, opset):
    model = onnx_model(mask, opset)
    arrays = feeds(mask, 2, 5, 7)
    apart = model.clone()
    assert unfold_onnx(apart, net_at(apart, arrays)) == 1
    assert unfold_onnx(apart, net_at(apart, arrays)) == 0
    net, (site,) = found(apart, arrays)
    assert (site.batch, site.heads, site.query_length, site.key_length, site.head_dim) == (2, 3, 5, 7, 4)
    assert site.scale == pytest.approx(0.3)
    assert refusal(site, net) == ""
    after, changed = apply(FuseAttention(), apart, [choose("fused_attention", site)], [site])
    assert changed == 1
    assert kinds(after).count("MultiHeadAttention") == 1
    assert (kinds(after).count("Transpose"), kinds(after).count("Unsqueeze"), kinds(after).count("Squeeze")) == (4, 0, 0)
    assert not {"Softmax", "MatMul"} & set(kinds(after))
    for sizes in ((2, 5, 7), (1, 9, 3), (3, 1, 1)):
        assert_same(model, apart, feeds(mask, *sizes), tolerance=0)
        assert_same(model, after, feeds(mask, *sizes))


def test_heads_that_shape_inference_does_not_prove_stay_folded():
    """The width comes from an input of free size, so that the number of heads is another on other data."""
    model = onnx_model("")
    model.graph.inputs[0].shape = model.graph.inputs[1].shape = model.graph.inputs[2].shape = None
    arrays = feeds("", 2, 5, 7)
    assert unfold_onnx(model, net_at(model, arrays)) == 0
