"""The walk up from a softmax on hand-written nets: what `test_find_attention` does not reach from PyTorch."""

import pytest

from szilard.cost_model.sites import Miss
from szilard.passes.attention_up import Scores, up
from szilard.passes.axes import split, whole

from .nets import NetBuilder


def walked(net, scores):
    """What `up` gives for softmax(scores)."""
    softmax = net.softmax(scores)
    shape = net.shape(scores)
    layout = (*split("x", shape[:-2]), whole("n", shape[-2]), whole("s", shape[-1]))
    done = net.net(softmax)
    return up(done, Scores(scores, layout), done.ops[softmax])


def product(net):
    return net.matmul(net.input("q", 2, 3, 5, 4), net.input("k", 2, 3, 4, 7))


def test_a_stable_softmax_is_seen_through():
    net = NetBuilder()
    scores = product(net)
    top = net.op("reduce_max", scores, shape=(2, 3, 5, 1), axes=[-1], keepdims=True)
    lowered = net.op("sub", scores, top)
    found, matmul = walked(net, lowered)
    assert (matmul.id, found.ops) == (scores, (lowered, top, scores))


def test_a_maximum_of_something_else_is_a_mask_that_is_subtracted():
    net = NetBuilder()
    scores = product(net)
    other = net.op("reduce_max", net.op("relu", scores), shape=(2, 3, 5, 1), axes=[-1], keepdims=True)
    (mask,) = walked(net, net.op("sub", scores, other))[0].masks
    assert (mask.value, mask.kind, mask.factor) == (other, "additive", -1.0)


def test_a_mask_below_the_softcap_is_refused():
    net = NetBuilder()
    masked = net.op("add", product(net), net.input("mask", 5, 7))
    found = walked(net, net.op("mul", net.op("tanh", masked), net.number(9.0)))
    assert "before the softcap" in found.reason


def test_the_third_operand_of_a_product_is_a_mask_and_its_alpha_a_scale():
    net = NetBuilder()
    scores = net.matmul(net.input("q", 6, 5, 4), net.input("k", 6, 4, 7), net.input("mask", 1, 5, 7), alpha=0.5)
    found, _ = walked(net, scores)
    (mask,) = found.masks
    assert (found.scale, mask.value, mask.kind, mask.factor) == (0.5, "mask", "additive", 1.0)
    net = NetBuilder()
    scores = net.matmul(net.input("q", 6, 5, 4), net.input("k", 6, 4, 7), net.input("mask", 1, 5, 7), beta=2.0)
    (mask,) = walked(net, net.op("div", scores, net.number(4.0)))[0].masks
    assert mask.factor == 0.5


def test_a_sink_beside_the_scores_is_kept_with_its_side():
    for first in (False, True):
        net = NetBuilder()
        scores, sink = product(net), net.input("sink", 1, 3, 1, 1)
        wide = net.expand(sink, 2, 3, 5, 1)
        found, _ = walked(net, net.op("concat", *((wide, scores) if first else (scores, wide)), shape=(2, 3, 5, 8), axis=3))
        assert (found.sink.value, found.sink.first, found.layout[-1]) == (wide, first, whole("s", 7))


def test_signs_and_factors_of_added_masks():
    net = NetBuilder()
    lowered = net.op("sub", net.input("m", 5, 7), product(net), alpha=2.0)
    found, _ = walked(net, lowered)
    assert (found.scale, found.masks[0].factor) == (-2.0, 1.0)
    net = NetBuilder()
    lowered = net.op("mul", net.op("sub", product(net), net.input("m", 5, 7), alpha=2.0), net.number(0.5))
    found, _ = walked(net, lowered)
    assert (found.scale, found.masks[0].factor) == (0.5, -1.0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda n, s: n.input("p", 2, 3, 5, 7), "no matrix product above it"),
        (lambda n, s: n.op("where", n.input("c", 5, 7, dtype="bool"), s, n.number(-5.0)), "puts -5 in place"),
        (lambda n, s: n.op("where", n.input("c", 5, 7, dtype="bool"), s, n.input("o", 5, 7)), "between two computed values"),
        (lambda n, s: n.op("mul", s, n.weight("w", 3, 1, 1)), "not one constant number"),
        (lambda n, s: n.op("concat", s, n.input("o", 2, 3, 5, 2), shape=(2, 3, 5, 9), axis=3), "no attention sink"),
        (lambda n, s: n.op("concat", s, n.input("o", 2, 3, 1, 7), shape=(2, 3, 6, 7), axis=2), "no attention sink"),
        (lambda n, s: n.op("identity", n.op("topk", s, outputs=2), index=0), "topk"),
        (lambda n, s: n.op("add", s, s, s), "more than one mask"),
        (lambda n, s: n.op("add", n.op("relu", s), n.input("m", 5, 7)), "relu"),
    ],
)
def test_what_stands_in_the_way_is_named(build, words):
    net = NetBuilder()
    found = walked(net, build(net, product(net)))
    assert isinstance(found, Miss)
    assert words in found.reason


def test_a_tower_of_adds_is_given_up_soon():
    """Each add has two operands that could be the scores, so that 60 of them have 2^60 ways up."""
    net = NetBuilder()
    value = net.input("x", 2, 3, 5, 7)
    for _ in range(60):
        value = net.op("add", value, value)
    assert "one mask more" in walked(net, value).reason
