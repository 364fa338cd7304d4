"""All finders together: names, branches, and nets that nobody would write."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.sites import AttentionSite, LinearSite, Region, kind_of
from szilard.models.tiny_transformers import FAMILIES
from szilard.passes.find import find

from .nets import NetBuilder, attend, closed
from .traced_nets import traced_net


def block(net, x, name):
    """Attention with one head axis folded in, a residual and a norm; x [2, 5, 12]."""
    q, k, v = (
        net.transpose(
            net.reshape(net.matmul(x, net.weight(f"{name}.{part}", 12, 12), origin=f"{name}.{part}"), 2, 5, 3, 4), 0, 2, 1, 3
        )
        for part in "qkv"
    )
    weights = net.softmax(net.op("mul", net.matmul(q, net.transpose(k, 0, 1, 3, 2)), net.number(0.5)), origin=name)
    mixed = net.reshape(net.transpose(net.matmul(weights, v), 0, 2, 1, 3), 2, 5, 12)
    total = net.op("add", x, net.matmul(mixed, net.weight(f"{name}.o", 12, 12), origin=f"{name}.o"))
    return net.layer_norm(total, net.weight(f"{name}.w", 12), net.weight(f"{name}.b", 12), origin=f"{name}.norm")


def test_a_small_transformer_is_all_sites():
    net = NetBuilder()
    done = net.net(block(net, block(net, net.input("x", 2, 5, 12), "one"), "two"))
    found = find(done)
    assert found.misses == ()
    assert Counter(kind_of(site) for site in found.sites) == {"linear": 8, "attention": 2, "region": 2}
    assert [site.id for site in found.sites if isinstance(site, LinearSite)][:4] == ["one.q", "one.k", "one.v", "one.o"]
    assert [site.id for site in found.sites if isinstance(site, AttentionSite)] == ["one", "two"]
    assert [site.id for site in found.sites if isinstance(site, Region)] == ["one.norm", "two.norm"]
    assert find(done) == found


def test_sites_of_two_kinds_never_share_a_name():
    net = NetBuilder()
    x = net.input("x", 2, 5, 12)
    total = net.op("add", net.matmul(x, net.weight("w", 12, 12), origin="same"), x)
    out = net.layer_norm(total, net.weight("s", 12), origin="same")
    names = [site.id for site in find(net.net(out)).sites]
    assert names == ["same", out]


def test_what_a_branch_holds_is_refused_with_the_name_of_the_branch():
    inner = NetBuilder()
    x = inner.input("x", 2, 5, 12)
    body = inner.net(block(inner, x, "in"))
    outside = dict(body.values)
    weight = outside.pop("in.q")
    net = NetBuilder()
    net.values["in.q"] = weight
    condition, start = net.input("condition", dtype="bool"), net.input("start", 2, 5, 12)
    twice = replace(body, values=outside, outputs=body.outputs)
    out = net.op("if", condition, start, shape=(2, 5, 12), id="choice", branches=(twice,))
    found = find(net.net(out))
    assert found.sites == ()
    assert Counter(miss.kind for miss in found.misses) == {"linear": 4, "attention": 1, "region": 1}
    assert all("inside a branch of if choice" in miss.reason for miss in found.misses)


MODELS = {
    # name: (linear, conv, region, attention)
    "bert": (12, 0, 4, 2),
    "gpt2": (9, 0, 4, 2),
    "llama": (15, 0, 0, 2),
    "vit": (13, 1, 4, 2),
    "t5": (37, 0, 0, 6),
    "whisper": (33, 2, 11, 6),
}


@pytest.mark.long
@pytest.mark.parametrize("spelling", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_in_small_transformers(name, spelling):
    pytest.importorskip("transformers")
    module, sample = FAMILIES[name]()
    for inner in module.children():
        inner.set_attn_implementation(spelling)
    net, seen = traced_net(module, sample)
    found = find(net)
    count = Counter(kind_of(site) for site in found.sites)
    attentions = [site for site in found.sites if isinstance(site, AttentionSite)]
    linear, conv, region, attention = MODELS[name]
    assert count == Counter({"linear": linear, "conv": conv, "region": region, "attention": attention})
    assert {site.form for site in attentions} <= {"operator" if spelling == "sdpa" else "walk"}
    for site in attentions:
        expected = attend(seen, site)
        np.testing.assert_allclose(seen[site.output], expected, atol=2e-5 * np.abs(expected).max())


def fit(*shapes):
    """Whether numpy would broadcast them."""
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


@st.composite
def nets(draw):
    """Random ops on random values: most of them no model, all of them a net."""
    net = NetBuilder()
    width = draw(st.integers(1, 3))
    values = [
        net.input("x", 2, width, width),
        net.input("y", 2, width, width),
        net.weight("w", width, width),
        net.weight("b", width),
    ]
    keep = net.input("keep", width, width, dtype="bool")
    for _ in range(draw(st.integers(1, 25))):
        kind = draw(
            st.sampled_from(
                [
                    "matmul",
                    "matmul",
                    "add",
                    "mul",
                    "div",
                    "softmax",
                    "softmax",
                    "transpose",
                    "reshape",
                    "where",
                    "layer_norm",
                    "tanh",
                    "number",
                ]
            )
        )
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        shape = net.shape(a)
        if kind == "number":
            values.append(net.number(draw(st.sampled_from([0.0, 0.5, -1e9]))))
        elif kind == "matmul" and len(shape) > 1 and len(net.shape(b)) > 1 and fit(shape[:-2], net.shape(b)[:-2]):
            values.append(net.matmul(a, b, transpose_b=draw(st.booleans())))
        elif kind in ("add", "mul", "div") and fit(shape, net.shape(b)):
            values.append(net.op(kind, a, b))
        elif kind == "softmax" and shape:
            values.append(net.softmax(a, axis=draw(st.sampled_from([-1, -1, -len(shape)]))))
        elif kind == "transpose":
            values.append(net.transpose(a, *draw(st.permutations(range(len(shape))))))
        elif kind == "reshape":
            values.append(net.reshape(a, *draw(st.sampled_from([shape, (1, *shape), (int(np.prod(shape)),), (*shape, 1)]))))
        elif kind == "where" and fit(shape, net.shape(b), (width, width)):
            values.append(net.op("where", keep, a, b))
        elif kind == "layer_norm" and shape:
            values.append(net.layer_norm(a, "b"))
        elif kind == "tanh":
            values.append(net.op("tanh", a))
    outputs = draw(st.sets(st.sampled_from(sorted(net.ops) or ["x"]), min_size=1, max_size=3))
    return net.net(*sorted(outputs))


@settings(max_examples=300, deadline=None)
@given(nets())
def test_no_net_breaks_the_finders_and_no_op_is_in_two_sites_of_a_kind(net):
    found = find(net)
    assert find(net) == found
    names = [site.id for site in found.sites]
    assert len(set(names)) == len(names)
    for kind in ("linear", "conv", "attention", "region"):
        ops = [op for site in found.sites if kind_of(site) == kind for op in site.ops]
        assert len(set(ops)) == len(ops)
    for site in found.sites:
        assert closed(net, site.ops, set(site.writes) if isinstance(site, Region) else {site.output})
    for miss in found.misses:
        assert miss.op in net.ops
        assert miss.reason.endswith(".")
