"""Attention as people write it, found in traced modules and in nets by hand, and checked by its numbers: also that of `attention_heads.py`,
`attention_masks.py` and `attention_operator.py`."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.passes.find_attention import find_attention

from . import spellings
from .nets import NetBuilder, attend, closed, run_net
from .traced_nets import traced_net


@pytest.fixture(scope="module")
def traced():
    """(net of all spellings, every value on the sample, what was found)."""
    torch.manual_seed(1)
    net, seen = traced_net(spellings.Layers(), {"x": spellings.sample()}, {})
    return net, seen, find_attention(net)


def misses_of(name, traced):
    net, _, (_, misses) = traced
    return [miss for miss in misses if net.ops[miss.op].origin.split(".")[0] == name]


@pytest.mark.parametrize("name", spellings.HITS)
def test_every_spelling_is_found_and_named_right(name, traced):
    _, kv_heads, form, mask_kind = spellings.HITS[name]
    net, seen, (sites, _) = traced
    (site,) = [site for site in sites if site.id == name]
    assert misses_of(name, traced) == []
    assert (site.form, site.kv_heads, site.heads, site.batch) == (form, kv_heads, spellings.HEADS, spellings.BATCH)
    assert (site.mask_kind if site.mask else "") == mask_kind
    assert math.isclose(site.scale, spellings.SCALE, rel_tol=1e-6)
    assert (site.sink != "") == (name == "sink")
    assert (site.softcap, site.causal) == (30.0 if name == "softcap" else 0.0, name == "sdpa_causal")
    assert closed(net, site.ops, {site.output})
    places = {value: place for place, op in enumerate(site.ops) for value in net.ops[op].outputs}
    assert all(places.get(value, -1) < place for place, op in enumerate(site.ops) for value in net.ops[op].inputs)
    np.testing.assert_allclose(seen[site.output], attend(seen, site), atol=2e-6)


@pytest.mark.parametrize("name", spellings.REFUSED)
def test_every_look_alike_is_refused_in_words(name, traced):
    _, _, (sites, _) = traced
    assert all(site.id != name for site in sites)
    misses = misses_of(name, traced)
    assert any(spellings.REFUSED[name][1] in miss.reason for miss in misses), misses
    assert all(miss.kind == "attention" and miss.reason.endswith(".") for miss in misses)


def test_heads_folded_into_the_batch_from_the_start_are_refused(traced):
    (miss,) = misses_of("multi_head", traced)
    assert "no value holds with separate axes for batch and heads" in miss.reason


def test_two_runs_find_the_same(traced):
    net, _, found = traced
    assert find_attention(net) == found


def operator(net: NetBuilder, *shapes, mask="", **attributes):
    q, k, v = (net.input(name, *shape) for name, shape in zip("qkv", shapes, strict=True))
    return net.op(
        "attention", q, k, v, *((mask,) if mask else ()), shape=(*shapes[0][:-1], shapes[2][-1]), layout="BHND", **attributes
    )


@pytest.mark.parametrize(
    ("shapes", "attributes", "words"),
    [
        ([(7, 24)] * 3, {"layout": "BNC", "heads": 4}, "a shape that is not known"),
        ([(2, 4, 7, 6)] * 3, {"dropout": 0.1}, "training mode"),
        ([(2, 4, 7, 6), (2, 3, 7, 6), (2, 3, 7, 6)], {}, "4 heads over 3 heads"),
    ],
)
def test_operators_that_are_not_dense_attention_are_refused(shapes, attributes, words):
    net = NetBuilder()
    q, k, v = (net.input(name, *shape) for name, shape in zip("qkv", shapes, strict=True))
    out = net.op("attention", q, k, v, shape=shapes[0], **{"layout": "BHND", **attributes})
    sites, (miss,) = find_attention(net.net(out))
    assert sites == ()
    assert words in miss.reason


def test_an_operator_keeps_its_default_scale_and_cap():
    net = NetBuilder()
    out = operator(net, (2, 4, 5, 9), (2, 4, 7, 9), (2, 4, 7, 3), scale=None, softcap=20.0, is_causal=True)
    (site,), _ = find_attention(net.net(out))
    assert (site.scale, site.softcap, site.causal) == (1 / 3, 20.0, True)
    assert (site.query_length, site.key_length, site.head_dim, site.key_transposed) == (5, 7, 9, False)


@pytest.mark.parametrize("kind", ["attention", "fused_attention"])
def test_an_operator_in_a_layout_of_its_own_is_kept(kind):
    net = NetBuilder()
    several = kind == "fused_attention"
    x = net.input("x", 2, 7, 24)
    operands = (x, net.weight("w", 24, 72)) if several else (x, net.input("k", 2, 5, 12), net.input("v", 2, 5, 12))
    sizes = {"num_heads": 4} if several else {"heads": 4, "kv_heads": 2, "layout": "BNC", "is_causal": True}
    out = net.op(kind, *operands, shape=(2, 7, 24), **sizes)
    (site,), misses = find_attention(net.net(out))
    assert misses == ()
    assert (site.form, site.ops, site.batch, site.heads, site.head_dim) == ("packed", (out,), 2, 4, 6)
    assert math.isclose(site.scale, 6**-0.5)
    assert (site.kv_heads, site.key_length, site.causal) == ((4, 7, False) if several else (2, 5, True))


def test_an_operator_with_a_cache_is_kept_and_knows_its_keys():
    net = NetBuilder()
    q, k, v = (net.input(name, 2, 4, 1, 6) for name in "qkv")
    past = [net.input(name, 2, 4, 9, 6) for name in ("past_key", "past_value")]
    net.op("attention", q, k, v, "", *past, shape=(2, 4, 1, 6), id="a", outputs=3, layout="BHND", heads=4)
    for name in ("a.1", "a.2"):
        net.values[name] = replace(net.values[name], shape=(2, 4, 10, 6))
    (site,), _ = find_attention(net.net("a", "a.1", "a.2"))
    assert (site.form, site.query_length, site.key_length, site.head_dim) == ("packed", 1, 10, 6)


@st.composite
def attentions(draw):
    """A random spelling on a hand-written net: sizes, groups, folding, scales, masks and guards drawn."""
    net = NetBuilder()
    batch, kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    length, keys, depth, width = (draw(st.integers(1, 5)) for _ in range(4))
    heads, in_turn = kv_heads * groups, draw(st.booleans())
    q = net.input("q", batch, heads, length, depth)
    transposed = draw(st.booleans())
    k = net.input("k", batch, kv_heads, *((depth, keys) if transposed else (keys, depth)))
    v = net.input("v", batch, kv_heads, keys, width)
    scale, folded = 1.0, draw(st.booleans())

    def scaled(value):
        nonlocal scale
        if not draw(st.booleans()):
            return value
        factor = draw(st.sampled_from([0.5, 0.25, 3.0]))
        divided = draw(st.booleans())
        scale *= 1 / factor if divided else factor
        order = (value, net.number(factor)) if divided or draw(st.booleans()) else (net.number(factor), value)
        return net.op("div" if divided else "mul", *order)

    def repeated(value):
        if groups == 1:
            return value
        _, _, rows, columns = net.shape(value)
        apart = (1, kv_heads) if in_turn else (kv_heads, 1)
        repeats = (groups, kv_heads) if in_turn else (kv_heads, groups)
        value = net.op("unsqueeze", value, shape=(batch, *apart, rows, columns), axes=[1 if in_turn else 2])
        return net.reshape(net.expand(value, batch, *repeats, rows, columns), batch, heads, rows, columns)

    def fold(value):
        return net.reshape(value, batch * heads, *net.shape(value)[2:]) if folded else value

    q, k = scaled(q), scaled(repeated(k))
    if not transposed:
        k = net.transpose(k, 0, 1, 3, 2)
    scores = scaled(net.matmul(fold(q), fold(k)))
    cap = draw(st.sampled_from([0.0, 2.0]))
    if cap:
        scores = net.op("mul", net.op("tanh", net.op("div", scores, net.number(cap))), net.number(cap))
    mask = draw(st.sampled_from(["", "additive", "boolean", "boolean_inverted"]))
    keep = net.input("keep", length, keys, dtype="bool")
    if mask == "additive":
        added = net.input("added", *draw(st.sampled_from([(1, keys), (length, keys), (1, length, keys)])))
        scores = net.op("add", *((scores, added) if draw(st.booleans()) else (added, scores)))
    elif mask:
        low = net.number(-1e9)
        scores = net.op("where", keep, *((scores, low) if mask == "boolean" else (low, scores)))
    weights = net.softmax(scores)
    if draw(st.booleans()):
        weights = net.op("where", net.op("isnan", weights, dtype="bool"), net.number(0.0), weights)
    out = net.matmul(weights, fold(repeated(v)))
    out = net.reshape(out, batch, heads, length, width) if folded else out
    return (
        net.net(net.op("relu", out)),
        scale,
        cap,
        mask,
        (batch, heads, heads if in_turn and kv_heads > 1 else kv_heads, length, keys, depth),
    )


@settings(max_examples=150, deadline=None)
@given(attentions(), st.integers(0, 2**32 - 1))
def test_random_spellings_mean_what_the_site_says(case, seed):
    net, scale, cap, mask, sizes = case
    (site,), misses = find_attention(net)
    assert misses == ()
    assert find_attention(net)[0] == (site,)
    assert math.isclose(site.scale, scale)
    assert (site.softcap, site.mask_kind if site.mask else "") == (cap, mask)
    assert (site.batch, site.heads, site.query_length, site.key_length, site.head_dim) == (*sizes[:2], *sizes[3:])
    assert site.kv_heads == sizes[2]
    assert closed(net, site.ops, {site.output})
    random = np.random.default_rng(seed)
    feeds = {name: random.standard_normal(net.shape(name)) for name in net.inputs}
    feeds["keep"] = random.random(net.shape("keep")) < 0.7
    feeds["keep"][:, 0] = mask != "boolean_inverted"
    seen = run_net(net, feeds)
    np.testing.assert_allclose(seen[site.output], attend(seen, site), atol=1e-9)
