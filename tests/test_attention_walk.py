"""The climb from an operand of a matrix product."""

from szilard.passes.attention_walk import STEPS, climb, factor_of, transparent
from szilard.passes.axes import whole

from .nets import NetBuilder

LAYOUT = (whole("n", 3), whole("d", 5))


def test_a_climb_collects_factors_and_stops_at_computation():
    net = NetBuilder()
    start = net.op("exp", net.input("x", 3, 5))
    wide = net.op("cast", start, dtype="float64", to="float64")
    halved = net.op("div", wide, net.number(2.0))
    turned = net.transpose(net.op("mul", net.number(6.0), halved), 1, 0)
    reaches = climb(net.net(turned), turned, LAYOUT[::-1])
    assert [reach.value for reach in reaches][-3:] == [halved, wide, start]
    assert (reaches[-1].scale, reaches[-1].layout) == (3.0, LAYOUT)
    assert len(reaches[-1].ops) == 4
    assert len(climb(net.net(turned), turned, LAYOUT[::-1], moves_only=True)) == 2


def test_a_narrowing_cast_ends_a_climb():
    net = NetBuilder("float32")
    narrow = net.op("cast", net.input("x", 3, 5), dtype="float16", to="float16")
    assert [reach.value for reach in climb(net.net(narrow), narrow, LAYOUT)] == [narrow]


def test_a_climb_is_bounded():
    net = NetBuilder()
    value = net.input("x", 3, 5)
    for _ in range(STEPS + 10):
        value = net.reshape(value, 3, 5)
    assert len(climb(net.net(value), value, LAYOUT)) == STEPS


def test_factors_are_numbers_that_scale_the_whole_operand():
    net = NetBuilder()
    x, two = net.input("x", 3, 5), net.number(2.0)
    cases = {
        net.op("mul", two, x): (1, 2.0),
        net.op("mul", x, two): (0, 2.0),
        net.op("div", x, two): (0, 0.5),
        net.op("div", two, x): None,
        net.op("div", x, net.number(0.0)): None,
        net.op("mul", x, net.number(float("inf"))): None,
        net.op("mul", x, net.weight("w", 5)): None,
    }
    done = net.net(*cases)
    assert {op: factor_of(done, done.ops[op]) for op in cases} == cases


def test_a_dropout_lets_through_only_when_it_is_off():
    net = NetBuilder()
    x = net.input("x", 3, 5)
    ratio, on, off = net.number(0.1), net.number(1.0), net.number(0.0)
    cases = {
        net.op("dropout", x): True,
        net.op("dropout", x, training=True): False,
        net.op("dropout", x, ratio, off): True,
        net.op("dropout", x, ratio, on): False,
        net.op("identity", x): True,
        net.op("identity", x, index=0): False,
        net.op("relu", x): False,
    }
    done = net.net(*cases)
    assert {op: transparent(done, done.ops[op]) for op in cases} == cases
