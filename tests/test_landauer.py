"""The floor of a bit: the published number, that it adds up, and which bits of a graph count."""

import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.landauer import erased_bits, graph_joules, landauer_joules
from szilard.cost_model.price import price_group, price_net

from .priced_nets import net_of


def test_a_bit_at_room_temperature():
    assert landauer_joules(1) == pytest.approx(2.871e-21, rel=1e-3)
    assert landauer_joules(1) / 1.602176634e-19 == pytest.approx(0.0179, rel=2e-3)


def test_it_is_linear_in_bits_and_in_temperature():
    assert landauer_joules(37) == pytest.approx(37 * landauer_joules(1))
    assert landauer_joules(5, 600.0) == pytest.approx(2 * landauer_joules(5, 300.0))
    assert landauer_joules(0) == 0


@pytest.mark.parametrize(("bits", "kelvin"), [(-1, 300), (1, -1)])
def test_negative_arguments_are_refused(bits, kelvin):
    with pytest.raises(ValueError, match="negative"):
        landauer_joules(bits, kelvin)


def test_a_picojoule_a_flop_against_one_bit_and_against_the_bits_a_flop_overwrites():
    """Remark 3.1 prints 3e8 for the first (rounded down) and does not count the bits of the result."""
    assert 1e-12 / landauer_joules(1) == pytest.approx(3.48e8, rel=2e-3)
    assert 1e-12 / landauer_joules(32) == pytest.approx(1.09e7, rel=2e-3)


def graph():
    lines = [
        ("matmul", ["x", "w"], ["h"]),
        ("reshape", ["h"], ["v"]),
        ("cast", ["v"], ["c"]),
        ("layer_norm", ["c"], ["y", "mean"]),
    ]
    shapes = {"x": (7, 5), "w": (5, 3), "h": (7, 3), "v": (21,), "c": (21,), "y": (21,), "mean": (1,)}
    return net_of(shapes, lines, ["w"], outputs=["y"], dtypes={"c": "float16", "y": "float16"})


def test_every_op_overwrites_its_outputs_views_and_unread_outputs_nothing():
    net = graph()
    assert erased_bits(net.ops.values(), net) == 21 * (32 + 16 + 16)
    assert erased_bits([net.ops["op1"]], net) == 0
    assert graph_joules(net) == pytest.approx(landauer_joules(21 * 64))


def test_inside_one_kernel_only_what_leaves_is_overwritten():
    net = graph()
    assert erased_bits(net.ops.values(), net, fused=True) == 21 * 16


def test_a_price_shows_the_floor_of_the_same_bits():
    net, device = graph(), load_device("cpu")
    assert price_net(net, device).total.landauer == pytest.approx(graph_joules(net))
    fused = price_group(net.ops.values(), net, device)
    assert fused.landauer == pytest.approx(landauer_joules(erased_bits(net.ops.values(), net, fused=True)))
    assert fused.joules > 1e3 * fused.landauer
