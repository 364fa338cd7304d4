"""Which ops may go when a value is computed in another way."""

from szilard.passes.closed import escape, removable

from .nets import NetBuilder


def chain():
    net = NetBuilder()
    first = net.op("relu", net.input("x", 2, 3))
    second = net.op("tanh", first)
    third = net.op("neg", second)
    return net, first, second, third


def test_a_chain_goes_whole_and_in_order():
    net, first, second, third = chain()
    done = net.net(net.op("exp", third))
    assert removable(done, (third, first, second), third) == (first, second, third)
    assert escape(done, (first, second), (first, second, third)) == ""


def test_what_is_read_outside_stays_with_all_that_it_needs():
    net, first, second, third = chain()
    other = net.op("abs", second)
    done = net.net(third, other)
    kept = removable(done, (first, second, third), third)
    assert kept == (third,)
    assert (
        escape(done, (first, second, third), kept)
        == f"shares tanh {second} with abs {other}, so that it must be computed anyway."
    )


def test_a_model_output_stays():
    net, first, second, third = chain()
    done = net.net(third, second)
    assert removable(done, (first, second, third), third) == (third,)
    assert "the outside" in escape(done, (first, second, third), (third,))
