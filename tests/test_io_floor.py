"""Floors of ops at two levels: the bounds with the shapes, attributes and element sizes of real ops, and prices above them."""

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.compulsory import compulsory_bytes
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.io_bounds import attention_words, conv_words, matmul_words
from szilard.cost_model.io_floor import bound_bytes, io_floors
from szilard.cost_model.price import price_group, price_net, price_op

from . import schedules
from .priced_nets import net_of
from .test_io_bounds import CONVS

DEVICES = [load_device(name) for name in device_names()]
FAST = 4096.0


def matmul_net(rows, inner, columns, batch=None, dtype="float32"):
    lead = () if batch is None else (batch,)
    shapes = {"a": (*lead, rows, inner), "b": (*lead, inner, columns), "y": (*lead, rows, columns)}
    return net_of(shapes, [("matmul", ["a", "b"], ["y"])], dtypes=dict.fromkeys("aby", dtype))


def net_with(kind, shapes, inputs, attributes=None, **more):
    return net_of(shapes, [(kind, inputs, ["y"], attributes or {})], **more)


def conv_net(conv, dtype="float32"):
    attributes = {
        "strides": [conv.stride] * 2, "pads": [conv.pad] * 4, "dilations": [conv.dilation] * 2, "groups": conv.groups,
    }  # fmt: skip
    shapes = {"x": (1, *conv.x), "w": conv.w, "y": (1, *conv.y)}
    return net_with("conv", shapes, ["x", "w"], attributes, constants=["w"], dtypes=dict.fromkeys("xwy", dtype))


def attention_net(queries, keys, depth, values, heads=(2, 3), kv_heads=3, extra=(), **attributes):
    batch, count = heads
    shapes = {
        "q": (batch, count, queries, depth),
        "k": (batch, kv_heads, keys, depth),
        "v": (batch, kv_heads, keys, values),
        "m": (queries, keys),
        "y": (batch, count, queries, values),
    }
    return net_with("attention", {n: s for n, s in shapes.items() if n != "m" or extra}, ["q", "k", "v", *extra], attributes)


def floor(net, fast=FAST, op="op0"):
    """What moves past a core that holds `fast` bytes."""
    device = load_device("cpu").with_values({"capacity.core": fast, "capacity.registers": 0.0})
    return io_floors(net.ops[op], net, device)[1]


def test_floor_of_a_matmul_is_compulsory_traffic_or_the_bound_whichever_is_more():
    net = matmul_net(512, 512, 512)
    assert floor(net, 50e6) == 3 * 512 * 512 * 4
    assert floor(net) == pytest.approx(4 * matmul_words(512**3, FAST / 4))
    assert floor(net) == pytest.approx(4 * 2 * 512**3 / 32)
    assert floor(net) > 3 * 512 * 512 * 4


def test_floor_of_half_precision_counts_smaller_words():
    assert floor(matmul_net(512, 512, 512, dtype="float16")) == pytest.approx(floor(matmul_net(512, 512, 512)) / 2**1.5)


def test_floor_of_a_batch_adds_up():
    assert floor(matmul_net(256, 256, 256, batch=3)) == pytest.approx(3 * floor(matmul_net(256, 256, 256)))


@pytest.mark.parametrize("attributes", [{}, {"transpose_b": True}, {"transpose_a": True}])
def test_the_inner_length_is_read_where_it_stands(attributes):
    a = (300, 200) if not attributes.get("transpose_a") else (200, 300)
    b = (200, 400) if not attributes.get("transpose_b") else (400, 200)
    net = net_with("matmul", {"a": a, "b": b, "y": (300, 400)}, ["a", "b"], attributes)
    assert floor(net, 400) == pytest.approx(4 * 2 * 300 * 200 * 400 / 10)


def test_operands_of_several_sizes_count_at_their_geometric_mean():
    """Weights of 4 bits packed by twos into uint8 [N, blocks, bytes], activations of 16 bits."""
    shapes = {"a": (512, 512), "b": (512, 4, 64), "s": (2048,), "y": (512, 512)}
    net = net_with(
        "matmul_nbits", shapes, ["a", "b", "s"], dtypes={"a": "float16", "b": "uint8", "s": "float16", "y": "float16"}
    )
    word = (2 * 0.5 * 2) ** (1 / 3)
    assert floor(net) == pytest.approx(word * matmul_words(512**3, FAST / word))


def test_a_matrix_times_itself_keeps_its_compulsory_floor():
    net = net_with("matmul", {"a": (512, 512), "y": (512, 512)}, ["a", "a"])
    assert floor(net) == 2 * 4 * 512**2
    shapes = {"a": (512, 512), "v": (512, 512), "y": (512, 512)}
    net = net_of(shapes, [("reshape", ["a"], ["v"]), ("matmul", ["a", "v"], ["y"])])
    assert floor(net, op="op1") == 2 * 4 * 512**2


@pytest.mark.parametrize("conv", CONVS, ids=lambda conv: f"{conv.x}-{conv.w}-{conv.stride}")
@pytest.mark.parametrize("fast", [200, 2000])
def test_floor_of_a_convolution_is_below_the_best_schedule(conv, fast):
    net = conv_net(conv)
    words = floor(net, 4.0 * fast) / 4
    assert conv.compulsory <= words <= schedules.best_conv(conv, fast, (1, 2, 3, 5, 7, 14, 28, 48))


def test_floor_of_a_convolution_counts_products_that_are_no_padding_and_windows_that_overlap():
    shapes = {"x": (2, 64, 28, 28), "w": (96, 32, 3, 3), "y": (2, 96, 28, 28)}
    net = net_with("conv", shapes, ["x", "w"], {"pads": [1] * 4, "groups": 2})
    products = 2 * 96 * 32 * (3 * 28 - 2) ** 2
    assert floor(net, 1024) == pytest.approx(4 * conv_words(products, 256, 9))
    strided = net_with("conv", {**shapes, "y": (2, 96, 14, 14)}, ["x", "w"], {"pads": [1] * 4, "groups": 2, "strides": [2, 2]})
    assert bound_bytes(strided.ops["op0"], strided, 1024) == pytest.approx(4 * conv_words(2 * 96 * 32 * 41**2, 256, 4))
    patches = {"x": (1, 3, 224, 224), "w": (768, 3, 16, 16), "y": (1, 768, 14, 14)}
    net = net_with("conv", patches, ["x", "w"], {"strides": [16, 16]})
    assert floor(net, 1024) == pytest.approx(4 * matmul_words(196 * 768 * 768, 256))


def test_a_transposed_convolution_overlaps_in_its_outputs():
    shapes = {"x": (1, 64, 20, 20), "w": (64, 48, 4, 4), "y": (1, 48, 40, 40)}
    net = net_with("conv", shapes, ["x", "w"], {"strides": [2, 2], "pads": [1] * 4, "transposed": True})
    assert floor(net, 512) == pytest.approx(4 * conv_words(64 * 48 * (20 * 4 - 2) ** 2, 128, 4))


def test_floor_of_attention_counts_every_head_and_shares_keys():
    net = attention_net(300, 500, 32, 24, heads=(2, 6), kv_heads=3)
    assert floor(net) == pytest.approx(4 * attention_words(2 * 6 * 300 * 500, 32, 24, 1024))
    assert floor(net, 30_000) == pytest.approx(4 * attention_words(2 * 6 * 300 * 500, 32, 24, 7500))
    packed = {"q": (2, 300, 6 * 32), "k": (2, 500, 3 * 32), "v": (2, 500, 3 * 24), "y": (2, 300, 6 * 24)}
    assert floor(net_with("attention", packed, ["q", "k", "v"], {"heads": 6, "kv_heads": 3})) == pytest.approx(floor(net))


def test_causal_attention_needs_half_of_the_scores():
    whole, half = attention_net(600, 600, 32, 32), attention_net(600, 600, 32, 32, is_causal=True)
    assert floor(half) == pytest.approx(floor(whole) * 601 / 1200)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("fast", [24, 64, 300])
def test_floor_of_attention_is_below_the_best_schedule(fast, causal):
    net = attention_net(131, 131, 4, 4, heads=(1, 1), kv_heads=1, is_causal=causal)
    assert floor(net, 4.0 * fast) / 4 <= schedules.best_attention(131, 131, 4, 4, fast, causal)


def test_a_mask_a_cache_or_packed_projections_leave_only_the_compulsory_floor():
    """A mask may let a kernel skip scores: sparse attention is not compared with the bound of exact attention."""
    masked = attention_net(600, 600, 32, 32, extra=["m"])
    assert floor(masked) == 4 * 4 * 2 * 3 * 600 * 32
    same = net_with("attention", {"q": (1, 1, 600, 32), "k": (1, 1, 600, 32), "y": (1, 1, 600, 32)}, ["q", "k", "k"])
    assert floor(same) == 3 * 4 * 600 * 32
    packed = {"x": (1, 600, 64), "w": (64, 192), "b": (192,), "y": (1, 600, 64)}
    assert floor(net_with("fused_attention", packed, ["x", "w", "b"], {"num_heads": 2})) == 4 * (2 * 600 * 64 + 64 * 192 + 192)
    whole = {"q": (1, 2, 600, 32), "k": (1, 2, 600, 32), "v": (1, 2, 600, 32), "y": (1, 2, 600, 32)}
    net = net_with("fused_attention", whole, ["q", "k", "v"])
    assert floor(net) == pytest.approx(4 * attention_words(2 * 600 * 600, 32, 32, 1024))


@pytest.mark.parametrize("kind", ["matmul", "conv", "attention"])
def test_shapes_that_are_not_known_keep_what_is_known(kind):
    net = net_with(kind, {"a": None, "b": (5, 3), "c": (5, 3), "y": (7, 3)}, ["a", "b", "c"])
    assert floor(net) == (15 + 15 + 21) * 4


def big_ops():
    odd = schedules.Conv(96, 160, 57, 55, 3, stride=2, pad=1)
    return {
        "matmul": matmul_net(1999, 2048, 3001),
        "matmul float16": matmul_net(4096, 4096, 4099, dtype="float16"),
        "conv": conv_net(odd),
        "depthwise": conv_net(schedules.Conv(192, 192, 57, 55, 3, pad=1, groups=192)),
        "patches": conv_net(schedules.Conv(3, 768, 224, 224, 16, stride=16)),
        "attention": attention_net(3001, 2999, 64, 64),
        "causal": attention_net(3001, 3001, 128, 128, is_causal=True),
        "softmax": net_with("softmax", {"x": (999, 4001), "y": (999, 4001)}, ["x"]),
    }


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("name", big_ops())
def test_prices_move_more_than_the_floors_of_both_levels_and_pay_for_what_is_compulsory(name, device):
    net = big_ops()[name]
    op = net.ops["op0"]
    cost = price_op(op, net, device)
    assert (cost.io_bytes, cost.io_bytes_core) == io_floors(op, net, device)
    assert compulsory_bytes([op], net) <= cost.io_bytes <= cost.io_bytes_core <= cost.bytes_by_level["cache"]
    assert cost.joules >= cost.io_bytes_core * device.value("byte.cache")
    streaming = price_op(op, net, device.with_values({"capacity.cache": device.value("capacity.core")}))
    assert streaming.io_bytes <= streaming.bytes_by_level["memory"]


def test_a_core_needs_more_traffic_than_the_whole_chip():
    net, device = matmul_net(4096, 4096, 4096), load_device("h200")
    chip, core = io_floors(net.ops["op0"], net, device)
    assert chip == compulsory_bytes(net.ops.values(), net)
    assert core > 3 * chip


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_floors_grant_all_that_a_level_holds(device):
    """For less than the hardware has it would be no floor: registers hold tiles too, and the chip holds all cores besides its cache."""
    value = device.values
    held = value["capacity.core"] + value.get("capacity.registers", 0.0)
    if device.kind == "cuda":
        assert held >= value["capacity.core"] + 2**18
        assert value["capacity.chip"] >= value["capacity.cache"] + 50 * held
    net = matmul_net(30_000, 30_000, 30_000)
    chip, core = io_floors(net.ops["op0"], net, device)
    assert core == pytest.approx(4 * matmul_words(3e4**3, held / 4))
    whole = value.get("capacity.chip", value["capacity.cache"] + held)
    assert chip == pytest.approx(4 * matmul_words(3e4**3, whole / 4))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.floats(64, 1e7))
@settings(max_examples=60, deadline=None)
def test_floors_fall_with_the_memory_and_never_below_compulsory(rows, inner, columns, fast):
    net = matmul_net(rows, inner, columns)
    assert floor(net, fast) >= floor(net, 2 * fast) >= 4 * (rows * inner + inner * columns + rows * columns)


def test_the_floor_of_a_group_and_of_a_net_is_what_crosses_its_edge():
    shapes = {"x": (600, 512), "w": (512, 512), "h": (600, 512), "y": (600, 512)}
    net = net_of(shapes, [("matmul", ["x", "w"], ["h"]), ("gelu", ["h"], ["y"])], ["w"])
    edge = 4 * (2 * 600 * 512 + 512 * 512)
    device = load_device("cpu")
    group, whole = price_group(net.ops.values(), net, device), price_net(net, device).total
    assert (group.io_bytes, group.io_bytes_core) == (edge, edge) == (whole.io_bytes, whole.io_bytes_core)
    assert price_op(net.ops["op0"], net, device).io_bytes_core > edge
    assert prod(shapes["h"]) * 8 == sum(price_op(op, net, device).io_bytes for op in net.ops.values()) - edge
