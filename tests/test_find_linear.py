"""Linear layers in the forms that exporters write, and constants that are none."""

import numpy as np
import pytest

from szilard.passes.find_linear import find_linear

from .nets import NetBuilder, closed


def found(net, *outputs):
    sites, misses = find_linear(net.net(*outputs))
    return list(sites), [miss.reason for miss in misses]


def test_matmul_with_a_bias_behind_it_in_either_order():
    for swapped in (False, True):
        net = NetBuilder()
        x, w, b = net.input("x", 3, 5, 17), net.weight("w", 17, 19), net.weight("b", 19)
        product = net.matmul(x, w)
        out = net.op("add", *((b, product) if swapped else (product, b)))
        (site,), misses = found(net, net.op("relu", out))
        assert misses == []
        assert (site.x, site.weight, site.bias, site.output, site.ops) == (x, w, b, out, (product, out))
        assert (site.in_features, site.out_features, site.transposed, site.rows, site.dtype) == (17, 19, False, 15, "float32")


def test_a_weight_stored_the_other_way_round_and_its_transpose_that_others_read():
    net = NetBuilder()
    x, w, b = net.input("x", 5, 17), net.weight("w", 19, 17), net.weight("b", 19)
    turned = net.transpose(w, 1, 0)
    first = net.matmul(x, turned, b)
    (site,), _ = found(net, first)
    assert (site.ops, site.weight, site.bias, site.transposed, site.out_features) == ((turned, first), w, b, True, 19)
    net.matmul(net.op("relu", x), turned)
    sites, _ = found(net, *net.ops)
    assert [site.ops for site in sites] == [(first,), (sites[1].output,)]
    assert sites[0].group == sites[1].group


def test_a_cast_weight_and_the_transpose_attribute():
    net = NetBuilder()
    x = net.input("x", 2, 6)
    w = net.constant("w", np.ones((4, 6), np.float16))
    cast = net.op("cast", w, dtype="float32", to="float32")
    out = net.matmul(x, cast, transpose_b=True)
    (site,), _ = found(net, out)
    assert (site.weight, site.transposed, site.ops, site.dtype) == (w, True, (cast, out), "float32")
    assert (site.in_features, site.out_features) == (6, 4)


def test_a_bias_that_something_else_separates_stays_outside():
    net = NetBuilder()
    x, w, b = net.input("x", 5, 4), net.weight("w", 4, 4), net.weight("b", 4)
    product = net.matmul(x, w)
    total = net.op("add", product, b)
    (site,), _ = found(net, net.op("mul", total, product))
    assert (site.ops, site.bias, site.output) == ((product,), "", product)


@pytest.mark.parametrize("shape", [(5, 4), (1,), (5, 1)])
def test_only_one_number_for_each_column_is_a_bias(shape):
    net = NetBuilder()
    product = net.matmul(net.input("x", 5, 7), net.weight("w", 7, 4))
    (site,), _ = found(net, net.op("add", product, net.weight("b", *shape)))
    assert (site.bias, site.output) == ("", product)


def test_products_of_one_input_form_a_group_through_views():
    net = NetBuilder()
    x = net.input("x", 3, 5, 16)
    flat = [net.reshape(x, 15, 16) for _ in range(3)]
    for name, rows in zip(("query", "key", "value"), flat, strict=True):
        net.matmul(rows, net.weight(name + ".w", 16, 8), origin=f"layer.{name}")
    other = net.matmul(net.op("relu", x), net.weight("other", 16, 8), origin="layer.other")
    sites, _ = found(net, *net.ops)
    assert [site.id for site in sites] == ["layer.query", "layer.key", "layer.value", "layer.other"]
    assert [site.group for site in sites] == ["layer.query+key+value"] * 3 + ["layer.other"]
    assert [site.x for site in sites] == [*flat, net.ops[other].inputs[0]]


def test_tied_weights_form_a_group():
    net = NetBuilder()
    w = net.weight("w", 6, 6)
    first = net.matmul(net.input("x", 3, 6), w)
    second = net.matmul(net.op("relu", first), w)
    sites, _ = found(net, second)
    assert [site.group for site in sites] == [f"{first}+{second}"] * 2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda n: n.matmul(n.weight("w", 4, 6), n.input("x", 6, 3)), "constant on the left"),
        (lambda n: n.matmul(n.weight("a", 4, 6), n.weight("w", 6, 3)), "multiplies two constants"),
        (lambda n: n.matmul(n.input("x", 2, 4, 6), n.weight("w", 2, 6, 3)), "shape [2, 6, 3]"),
        (lambda n: n.matmul(n.input("x", 2, 4, 6), n.expand(n.weight("w", 6, 3), 2, 6, 3)), "for each row of a batch"),
        (lambda n: n.matmul(n.input("x", 4, 6), n.reshape(n.weight("w", 6, 3, 1), 6, 3)), "another shape"),
        (lambda n: n.matmul(n.input("x", 4, 6), n.op("dequantize_linear", n.weight("w", 6, 3))), "quantised already"),
        (lambda n: n.matmul(n.input("x", 4, 6), n.weight("w", 6, 3), alpha=2.0), "scales its product by 2"),
        (lambda n: n.matmul(n.input("x", 4, 6), n.weight("w", 6, 3), n.input("b", 4, 3)), "no constant bias of 3 numbers"),
        (lambda n: n.matmul(n.input("x", 4, 6), n.weight("w", 6, 3), n.weight("b", 3), beta=0.5), "no constant bias"),
        (lambda n: n.op("lstm", n.input("x", 4, 1, 6), n.weight("w", 1, 24, 6), shape=(4, 1, 1, 6)), "LSTM lstm_0 holds its weights"),
        (lambda n: n.op("matmul_integer", n.input("x", 4, 6), n.weight("w", 6, 3), shape=(4, 3)), "quantised already"),
    ],
)  # fmt: skip
def test_what_is_no_linear_layer_is_refused_in_words(build, words):
    net = NetBuilder()
    sites, (reason,) = found(net, build(net))
    assert sites == []
    assert words in reason
    assert reason.endswith(".")


def test_integers_and_products_of_two_computed_values():
    net = NetBuilder("int64")
    net.matmul(net.input("x", 4, 6), net.constant("w", np.ones((6, 3), np.int64)))
    sites, (reason,) = found(net, *net.ops)
    assert (sites, "int64" in reason) == ([], True)
    net = NetBuilder()
    assert found(net, net.matmul(net.input("x", 4, 6), net.input("y", 6, 3))) == ([], [])


def test_sites_are_closed_and_stay_the_same():
    net = NetBuilder()
    x = net.input("x", 7, 16)
    for index in range(5):
        x = net.op("add", net.matmul(x, net.transpose(net.weight(f"w{index}", 16, 16), 1, 0)), net.weight(f"b{index}", 16))
    done = net.net(x)
    sites, _ = find_linear(done)
    assert len(sites) == 5
    assert all(closed(done, site.ops, {site.output}) and len(site.ops) == 3 for site in sites)
    assert find_linear(done)[0] == sites
