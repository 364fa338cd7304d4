"""Residual adds with the layer norm behind them."""

import pytest

from szilard.passes.find_region import find_region

from .nets import NetBuilder


def found(net, *outputs):
    sites, misses = find_region(net.net(*outputs))
    return list(sites), [miss.reason for miss in misses]


def start(width=11):
    net = NetBuilder()
    return net, net.input("a", 2, 5, width), net.input("b", 2, 5, width), net.weight("w", width), net.weight("c", width)


def test_an_add_whose_sum_goes_only_to_the_norm():
    net, a, b, w, c = start()
    total = net.op("add", a, b)
    out = net.layer_norm(total, w, c, origin="block.norm")
    (site,), misses = found(net, net.op("relu", out))
    assert misses == []
    assert (site.id, site.kind, site.ops) == ("block.norm", "residual_norm", (total, out))
    assert (site.reads, site.writes, site.dtype) == ((a, b, w, c), (out,), "float32")


def test_a_sum_that_goes_on_is_written_too():
    net, a, b, w, _ = start()
    total = net.op("add", a, b)
    out = net.layer_norm(total, w)
    (site,), _ = found(net, net.op("mul", out, total))
    assert (site.reads, site.writes) == ((a, b, w, ""), (out, total))
    net, a, b, w, _ = start()
    total = net.op("add", a, b)
    (site,), _ = found(net, net.layer_norm(total, w), total)
    assert site.writes[1:] == (total,)


def test_a_norm_whose_first_result_is_picked_by_a_node_of_its_own():
    net, a, b, w, c = start()
    total = net.op("add", a, b)
    out = net.layer_norm(total, w, c, outputs=3)
    pick = net.op("identity", out, index=0)
    (site,), _ = found(net, net.op("relu", pick))
    assert (site.ops, site.writes) == ((total, out, pick), (pick,))


def test_two_norms_of_one_sum():
    net, a, b, w, c = start()
    total = net.op("add", a, b)
    first, second = net.layer_norm(total, w, c), net.layer_norm(total, c, w)
    (site,), (reason,) = found(net, first, second)
    assert site.ops == (total, first)
    assert f"Norm {second}" in reason
    assert "joined with it already" in reason


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda n, a, b, w, c: n.layer_norm(n.op("add", a, w), w, c), "one operand of the add is a constant"),
        (lambda n, a, b, w, c: n.layer_norm(n.op("add", a, n.input("row", 1, 5, 11)), w, c), "(2, 5, 11) and (1, 5, 11)"),
        (lambda n, a, b, w, c: n.layer_norm(n.op("add", a, b), w, c, axis=-2), "more than the last axis"),
        (lambda n, a, b, w, c: n.layer_norm(n.op("add", a, b), n.input("scale", 11), c), "no constant weight of 11 numbers"),
        (lambda n, a, b, w, c: n.op("rms_norm", n.op("add", a, b), w, axis=-1), "RMS norm"),
        (lambda n, a, b, w, c: n.layer_norm(n.op("add", a, b, alpha=2), w, c), "two plain operands"),
        (lambda n, a, b, w, c: n.op("relu", n.layer_norm(n.op("add", a, b), w, c, outputs=2) + ".1"), "mean or variance"),
    ],
)
def test_what_cannot_become_one_kernel_is_refused_in_words(build, words):
    net, *rest = start()
    sites, (reason,) = found(net, build(net, *rest))
    assert sites == []
    assert words in reason
    assert reason.endswith(".")


def test_a_norm_of_something_else_is_nobodys_business():
    net, a, _, w, c = start()
    assert found(net, net.layer_norm(net.op("relu", a), w, c)) == ([], [])


def test_integers_have_no_fused_kernel():
    net = NetBuilder("int64")
    a, b, w = net.input("a", 2, 3), net.input("b", 2, 3), net.weight("w", 3)
    sites, (reason,) = found(net, net.layer_norm(net.op("add", a, b), w))
    assert (sites, "works on int64" in reason) == ([], True)
