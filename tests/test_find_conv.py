"""Convolutions and the batch norms behind them."""

import pytest

from szilard.passes.find_conv import find_conv

from .nets import NetBuilder


def conv(net, x, weight="", bias="", **more):
    weight = weight or net.weight(f"w{len(net.ops)}", 8, 3, 3, 3)
    names = (x, weight, bias) if bias else (x, weight)
    return net.op("conv", *names, shape=(2, 8, 7, 5), groups=1, transposed=False, **more)


def norm(net, x, *parameters, **more):
    names = parameters or tuple(net.weight(f"{name}{len(net.ops)}", 8) for name in ("scale", "shift", "mean", "variance"))
    return net.op("batch_norm", x, *names, shape=net.shape(x), epsilon=1e-5, **more)


def found(net, *outputs):
    sites, misses = find_conv(net.net(*outputs))
    return list(sites), [miss.reason for miss in misses]


def test_a_convolution_and_the_batch_norm_behind_it():
    net = NetBuilder()
    x, bias = net.input("x", 2, 3, 9, 7), net.weight("bias", 8)
    first = conv(net, x, bias=bias, origin="stem.conv")
    behind = norm(net, first)
    (site,), misses = found(net, net.op("relu", behind))
    assert misses == []
    assert (site.id, site.ops, site.batch_norm, site.output) == ("stem.conv", (first, behind), behind, behind)
    assert (site.x, site.bias, site.groups, site.dtype) == (x, bias, 1, "float32")


def test_a_batch_norm_whose_first_result_is_picked_by_a_node_of_its_own():
    net = NetBuilder()
    first = conv(net, net.input("x", 2, 3, 9, 7))
    behind = norm(net, first, outputs=3)
    pick = net.op("identity", behind, index=0)
    (site,), _ = found(net, net.op("relu", pick))
    assert (site.ops, site.batch_norm, site.output) == ((first, behind, pick), behind, pick)


def test_a_shared_convolution_keeps_its_batch_norm_apart_and_says_so():
    net = NetBuilder()
    first = conv(net, net.input("x", 2, 3, 9, 7))
    behind = norm(net, first)
    (site,), (reason,) = found(net, net.op("mul", behind, first))
    assert (site.ops, site.batch_norm, site.output) == ((first,), "", first)
    assert "read elsewhere too" in reason


@pytest.mark.parametrize(("more", "words"), [({"training_mode": 1}, "training mode"), ({"training": True}, "training mode")])
def test_a_batch_norm_in_training_is_refused(more, words):
    net = NetBuilder()
    (site,), (reason,) = found(net, norm(net, conv(net, net.input("x", 2, 3, 9, 7)), **more))
    assert site.batch_norm == ""
    assert words in reason


def test_computed_parameters_are_refused():
    net = NetBuilder()
    parameters = [net.weight(name, 8) for name in "abc"]
    (site,), (reason,) = found(net, norm(net, conv(net, net.input("x", 2, 3, 9, 7)), *parameters, net.input("variance", 8)))
    assert site.batch_norm == ""
    assert "variance is computed" in reason
    net = NetBuilder()
    sites, (reason,) = found(net, conv(net, net.input("x", 2, 3, 9, 7), weight=net.input("w", 8, 3, 3, 3)))
    assert (sites, "computed kernel" in reason) == ([], True)
    net = NetBuilder()
    sites, (reason,) = found(net, conv(net, net.input("x", 2, 3, 9, 7), bias=net.input("b", 8)))
    assert (sites, "computed bias" in reason) == ([], True)


def test_a_transposed_convolution_is_one_too():
    net = NetBuilder()
    x, w = net.input("x", 2, 3, 9, 7), net.weight("w", 3, 8, 3, 3)
    first = net.op("conv", x, w, shape=(2, 8, 7, 5), groups=1, transposed=True)
    (site,), _ = found(net, norm(net, first))
    assert site.batch_norm == site.output


def test_integer_convolutions_are_refused():
    net = NetBuilder("int32")
    sites, (reason,) = found(net, conv(net, net.input("x", 2, 3, 9, 7)))
    assert (sites, "works on int32" in reason) == ([], True)


def test_a_batch_norm_with_no_convolution_before_it_is_nobodys_business():
    net = NetBuilder()
    assert found(net, norm(net, net.input("x", 2, 8, 7, 5))) == ([], [])


def test_a_constant_added_to_each_channel_is_the_bias_and_a_clip_behind_it_the_activation():
    net = NetBuilder()
    first = conv(net, net.input("x", 2, 3, 9, 7))
    shift = net.weight("shift", 1, 8, 1, 1)
    added = net.op("add", shift, first)
    clip = net.op("clip", added, min=0.0, max=6.0)
    (site,), _ = found(net, net.op("sigmoid", clip))
    assert (site.ops, site.bias, site.output) == ((first, added), shift, added)
    assert (site.activation, site.result, site.low, site.high) == (clip, clip, 0.0, 6.0)


@pytest.mark.parametrize("limits", [{"min": 1.0}, {"max": -1.0}, {"min": 0.0, "max": 0.0}])
def test_a_clip_that_zero_is_outside_of_is_no_activation(limits):
    net = NetBuilder()
    (site,), _ = found(net, net.op("clip", conv(net, net.input("x", 2, 3, 9, 7)), **limits))
    assert (site.activation, site.result) == ("", site.output)


def test_an_addition_of_anything_else_is_no_bias():
    net = NetBuilder()
    x = net.input("x", 2, 3, 9, 7)
    first, second = conv(net, x), conv(net, x)
    whole = net.op("add", first, net.weight("whole", 2, 8, 7, 5))
    sites, _ = found(net, whole, net.op("add", second, whole))
    assert [(site.ops, site.bias) for site in sites] == [((first,), ""), ((second,), "")]


def test_a_shift_of_channels_is_its_bias_but_no_sum_of_three_and_no_multiple():
    for more, site_ops in (({}, 2), ({"alpha": 2}, 1), ({"third": True}, 1)):
        net = NetBuilder()
        first = conv(net, net.input("x", 2, 3, 9, 7))
        others = [net.weight("shift", 1, 8, 1, 1), *([net.input("skip", 2, 8, 7, 5)] if more.pop("third", False) else [])]
        (site,), _ = found(net, net.op("tanh", net.op("add", first, *others, **more)))
        assert len(site.ops) == site_ops
        assert site.bias == ("shift" if site_ops == 2 else "")
