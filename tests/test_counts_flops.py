"""Flops of every family against numbers worked out by hand or counted by naive loops."""

import math

import pytest

from szilard.cost_model import kinds
from szilard.cost_model.counts_flops import Unknown, arithmetic, flops

from .priced_nets import net_of


def flops_of(kind, shapes, inputs, attributes=None, dtypes=None):
    net = net_of(shapes, [(kind, inputs, ["y"], attributes or {})], dtypes=dtypes)
    return flops(net.ops["op0"], net)


@pytest.mark.parametrize(
    ("a", "b", "y", "attributes", "products"),
    [
        ((7, 5), (5, 3), (7, 3), {}, 7 * 5 * 3),
        ((2, 9, 7, 5), (2, 9, 5, 3), (2, 9, 7, 3), {}, 2 * 9 * 7 * 5 * 3),
        ((4, 7, 5), (5, 3), (4, 7, 3), {}, 4 * 7 * 5 * 3),
        ((7, 5), (3, 5), (7, 3), {"transpose_b": True}, 7 * 5 * 3),
        ((5, 7), (5, 3), (7, 3), {"transpose_a": True}, 7 * 5 * 3),
        ((5,), (5, 3), (3,), {}, 5 * 3),
        ((5,), (5,), (), {}, 5),
    ],
)
def test_matmul_is_two_flops_a_product(a, b, y, attributes, products):
    assert flops_of("matmul", {"a": a, "b": b, "y": y}, ["a", "b"], attributes) == {"float32.tensor": 2 * products}


def test_matmul_bias_adds_one_flop_an_output():
    found = flops_of("matmul", {"a": (7, 5), "b": (5, 3), "c": (3,), "y": (7, 3)}, ["a", "b", "c"])
    assert found == {"float32.tensor": 2 * 7 * 5 * 3, "float32": 21}


def test_integer_matmuls_compute_in_int8():
    shapes = {"a": (7, 5), "b": (5, 3), "s": (1,), "w": (3,), "y": (7, 3)}
    kinds_of = {"a": "uint8", "b": "int8"}
    found = flops_of("matmul_integer_to_float", shapes, ["a", "b", "s", "w"], dtypes=kinds_of)
    assert found == {"int8.tensor": 210, "float32": 63}
    assert flops_of("matmul_integer", shapes, ["a", "b"], dtypes={**kinds_of, "y": "int32"}) == {"int8.tensor": 210}


def test_matmul_nbits_computes_in_int8_only_at_accuracy_level_4():
    shapes = {"a": (7, 64), "b": (3, 2, 16), "s": (6,), "y": (7, 3)}
    fast = flops_of("matmul_nbits", shapes, ["a", "b", "s"], {"accuracy_level": 4}, {"b": "uint8"})
    plain = flops_of("matmul_nbits", shapes, ["a", "b", "s"], {"accuracy_level": 0}, {"b": "uint8"})
    assert fast["int8.tensor"] == plain["float32.tensor"] == 2 * 7 * 64 * 3
    assert plain["float32"] == 2 * 64 * 3  # each weight is expanded once
    tiled = flops_of("matmul_nbits", shapes, ["a", "b", "s"], {"row_tile": 3}, {"b": "int8"})
    assert tiled["float32"] == 3 * 2 * 64 * 3 + 2 * 7 * 3  # once for each of three tiles of rows, then scale and bias


@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_counts_what_naive_loops_do(groups):
    batch, channels, height, width, made, kernel = 2, 6, 7, 5, 9, (3, 2)
    out = (batch, made, height - 2, width - 1)
    loops = math.prod(out) * (channels // groups) * math.prod(kernel)
    shapes = {"x": (batch, channels, height, width), "w": (made, channels // groups, *kernel), "y": out}
    assert flops_of("conv", shapes, ["x", "w"], {"groups": groups}) == {"float32.tensor": 2 * loops}


def test_transposed_convolution_counts_from_its_input():
    shapes = {"x": (2, 6, 7, 5), "w": (6, 4, 3, 3), "y": (2, 4, 15, 11)}
    assert flops_of("conv", shapes, ["x", "w"], {"transposed": True}) == {"float32.tensor": 2 * (2 * 6 * 7 * 5) * (4 * 3 * 3)}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_is_two_products_and_a_softmax(causal, packed):
    batch, heads, kv, queries, keys, depth, value_depth = 2, 6, 3, 11, 13, 8, 5
    shapes: dict[str, tuple[int, ...]]
    if packed:
        shapes = {"q": (batch, queries, heads * depth), "k": (batch, keys, kv * depth), "v": (batch, keys, kv * value_depth)}
    else:
        shapes = {"q": (batch, heads, queries, depth), "k": (batch, kv, keys, depth), "v": (batch, kv, keys, value_depth)}
    attributes = {"is_causal": causal, "heads": heads, "kv_heads": kv}
    found = flops_of("attention", {**shapes, "y": (1,)}, ["q", "k", "v"], attributes)
    share = 0.5 if causal else 1.0
    scores = batch * heads * queries * keys
    assert found["float32.tensor"] == 2 * scores * (depth + value_depth) * share
    assert found["float32"] == 16 * scores * share


def test_packed_attention_counts_its_projection():
    found = flops_of(
        "fused_attention", {"x": (2, 7, 12), "w": (12, 36), "b": (36,), "y": (2, 7, 12)}, ["x", "w", "b"], {"num_heads": 3}
    )
    assert found["float32.tensor"] == 2 * 14 * 12 * 36 + 2 * 2 * 7 * 7 * (12 + 12)
    assert found["float32"] == 16 * 2 * 3 * 7 * 7


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_recurrent_multiplies_every_weight_at_every_step(kind, gates):
    steps, batch, size, hidden = 9, 2, 5, 7
    shapes = {
        "x": (steps, batch, size),
        "w": (1, gates * hidden, size),
        "r": (1, gates * hidden, hidden),
        "b": (1, 2 * gates * hidden),
    }
    onnx = flops_of(kind, {**shapes, "y": (1,)}, ["x", "w", "r", "b"])
    aten = flops_of(
        kind,
        {
            "x": shapes["x"],
            "h": (1, batch, hidden),
            "c": (1, batch, hidden),
            "w": shapes["w"][1:],
            "r": shapes["r"][1:],
            "b": (gates * hidden,),
            "y": (1,),
        },
        ["x", "h", "c", "w", "r", "b"],
    )
    assert onnx["float32.tensor"] == aten["float32.tensor"] == 2 * steps * batch * gates * hidden * (size + hidden)


def test_elementwise_counts_outputs_and_compares_in_the_dtype_of_its_operands():
    shapes = {"a": (7, 1), "b": (5,), "y": (7, 5)}
    assert flops_of("add", shapes, ["a", "b"]) == {"float32": 35}
    assert flops_of("add", {**shapes, "c": (1,)}, ["a", "b", "c"]) == {"float32": 70}
    assert flops_of("gt", shapes, ["a", "b"], dtypes={"y": "bool"}) == {"float32": 35}
    assert flops_of("add", shapes, ["a", "b"], dtypes=dict.fromkeys("aby", "int64")) == {"int32": 35}
    assert flops_of("exp", {"a": (3,), "y": (3,)}, ["a"], dtypes=dict.fromkeys("ay", "bfloat16")) == {"bfloat16": 36}


def test_reductions_norms_and_softmax_count_what_goes_in():
    shapes = {"x": (7, 5), "y": (7,)}
    assert flops_of("reduce_sum", shapes, ["x"]) == {"float32": 35}
    assert flops_of("softmax", {"x": (7, 5), "y": (7, 5)}, ["x"]) == {"float32": 16 * 35}
    assert flops_of("layer_norm", {"x": (7, 5), "y": (7, 5)}, ["x"]) == {"float32": 8 * 35}


def test_pools_count_their_windows():
    shapes = {"x": (1, 3, 9, 9), "y": (1, 3, 7, 7)}
    assert flops_of("pool_max", shapes, ["x"], {"kernel": [3, 3]}) == {"float32": 3 * 49 * 9}
    assert flops_of("pool_global_avg", {"x": (1, 3, 9, 9), "y": (1, 3, 1, 1)}, ["x"]) == {"float32": 243}


def test_resize_sort_and_quantise():
    assert flops_of("resize", {"x": (1, 3, 4, 4), "y": (1, 3, 8, 8)}, ["x"], {"mode": "nearest"}) == {}
    assert flops_of("resize", {"x": (1, 3, 4, 4), "y": (1, 3, 8, 8)}, ["x"], {"mode": "linear"}) == {"float32": 6 * 192}
    assert flops_of("topk", {"x": (3, 8), "y": (3, 2)}, ["x"]) == {"float32": 24 * 3}
    assert flops_of("quantize_linear", {"x": (3, 5), "y": (3, 5)}, ["x"], dtypes={"y": "uint8"}) == {"float32": 45}
    assert flops_of("dequantize_linear", {"x": (3, 5), "y": (3, 5)}, ["x"], dtypes={"x": "uint8"}) == {"float32": 30}


@pytest.mark.parametrize(
    ("equation", "a", "b", "lengths"),
    [
        ("bhqd,bhkd->bhqk", (2, 3, 7, 5), (2, 3, 11, 5), 2 * 3 * 7 * 11 * 5),
        ("...ij,jk->...ik", (2, 3, 7, 5), (5, 4), 2 * 3 * 7 * 5 * 4),
        ("i,j->ij", (7,), (5,), 35),
    ],
)
def test_einsum_multiplies_all_its_indices(equation, a, b, lengths):
    found = flops_of("einsum", {"a": a, "b": b, "y": (1,)}, ["a", "b"], {"equation": equation})
    assert found == {"float32.tensor": 2 * lengths}


@pytest.mark.parametrize(
    ("kind", "shapes", "inputs"),
    [
        ("matmul", {"a": None, "b": (5, 3), "y": (7, 3)}, ["a", "b"]),
        ("matmul", {"a": (7, 5), "b": (5, 3), "y": None}, ["a", "b"]),
        ("attention", {"q": (2, 7, 8), "k": (2, 7, 8), "v": (2, 7, 8), "y": (1,)}, ["q", "k", "v"]),
        ("conv", {"x": (1, 3, 5, 5), "y": (1, 3, 5, 5)}, ["x"]),
        ("lstm", {"x": (5, 1, 3), "h": (1, 1, 4), "y": (1,)}, ["x", "h"]),
        ("einsum", {"a": (7, 5), "b": (5, 3), "y": (7, 3)}, ["a", "b"]),
    ],
)
def test_missing_facts_are_unknown_never_zero(kind, shapes, inputs):
    with pytest.raises(Unknown):
        flops_of(kind, shapes, inputs)


def test_texts_have_no_arithmetic():
    assert arithmetic("float8_e4m3fn") == "float8"
    for dtype in (None, "object", "string"):
        with pytest.raises(Unknown):
            arithmetic(dtype)


@pytest.mark.parametrize("kind", sorted(kinds.MOVEMENT | kinds.FREE))
def test_moving_data_computes_nothing(kind):
    assert flops_of(kind, {"x": (3, 5), "y": (5, 3)}, ["x"]) == {}
