"""The walk down from a softmax on hand-written nets."""

import pytest

from szilard.cost_model.sites import Miss
from szilard.passes.attention_down import descend, down
from szilard.passes.axes import digits, split, whole

from .nets import NetBuilder

LAYOUT = (*split("x", (2, 3)), whole("n", 5), whole("s", 7))


def walked(net, scores, weights, *outputs):
    done = net.net(*outputs)
    return down(done, done.ops[weights], LAYOUT, frozenset([scores]))


def start():
    net = NetBuilder()
    scores = net.input("scores", 2, 3, 5, 7)
    return net, scores, net.softmax(scores), net.input("v", 2, 3, 7, 4)


def test_guards_against_rows_that_see_nothing_are_seen_through():
    net, scores, weights, v = start()
    seen = net.op("reduce_any", net.op("ne", scores, net.number(-1e9)), shape=(2, 3, 5, 1))
    empty = net.op("not", seen)
    guarded = net.op("where", empty, net.number(0.0), weights)
    out = net.matmul(guarded, v)
    found = walked(net, scores, weights, out)
    assert (found.product.id, found.layout) == (out, LAYOUT)
    assert set(found.ops) == {weights, seen, empty, guarded, net.ops[seen].inputs[0]}


def test_a_guard_on_something_else_is_not():
    for condition in (lambda n, s: n.input("c", 5, 7, dtype="bool"), lambda n, s: n.op("exp", s, dtype="bool")):
        net, scores, weights, v = start()
        guarded = net.op("where", net.op("not", condition(net, scores)), net.number(0.0), weights)
        assert isinstance(walked(net, scores, weights, net.matmul(guarded, v)), Miss)


def test_weights_that_are_read_beside_their_guard():
    net, scores, weights, v = start()
    guarded = net.op("where", net.op("isnan", weights, dtype="bool"), net.number(0.0), weights)
    out = net.op("add", net.matmul(guarded, v), net.op("exp", weights), shape=(2, 3, 5, 4))
    assert "read more than once" in walked(net, scores, weights, out).reason


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda n, p, v: n.op("dropout", p, training=True), "training mode"),
        (lambda n, p, v: n.op("slice", p, shape=(2, 3, 5, 6)), "an attention sink"),
        (lambda n, p, v: n.op("mul", p, n.weight("w", 7)), "changes the weights"),
        (lambda n, p, v: n.op("topk", p), "no matrix product with values"),
        (lambda n, p, v: n.matmul(n.input("left", 2, 3, 4, 5), p), "from the right"),
        (lambda n, p, v: n.matmul(p, v, n.input("third", 5, 4)), "a third operand"),
        (lambda n, p, v: n.matmul(p, v, alpha=2.0), "scales the product"),
        (lambda n, p, v: n.op("add", n.matmul(p, v), n.op("relu", p), shape=(2, 3, 5, 4)), "read more than once"),
        (lambda n, p, v: p, "output of the model"),
    ],
)
def test_what_stands_in_the_way_is_named(build, words):
    net, scores, weights, v = start()
    found = walked(net, scores, weights, build(net, weights, v))
    assert isinstance(found, Miss)
    assert words in found.reason


@pytest.mark.parametrize(("start_at", "cut"), [(0, "last"), (1, "first")])
def test_one_column_may_be_cut_off(start_at, cut):
    net, scores, weights, _ = start()
    kept = net.op("slice", weights, shape=(2, 3, 5, 6), start=start_at, step=1)
    out = net.matmul(kept, net.input("shorter", 2, 3, 6, 4))
    found = walked(net, scores, weights, out)
    assert (found.product.id, found.cut, found.layout[-1]) == (out, cut, whole("s", 6))


def test_weights_that_nothing_reads():
    net, scores, weights, _ = start()
    assert "read by nothing" in walked(net, scores, weights, scores).reason


def test_descend_follows_views_while_they_are_the_only_use():
    net, _, _, v = start()
    folded = net.reshape(v, 6, 7, 4)
    turned = net.transpose(folded, 0, 2, 1)
    done = net.net(net.op("relu", turned), net.op("exp", turned))
    reaches = descend(done, v, (*split("x", (2, 3)), whole("s", 7), whole("e", 4)))
    assert [reach.value for reach in reaches] == [v, folded, turned]
    assert reaches[-1].layout == (digits("x", 1, 6), whole("e", 4), whole("s", 7))
