"""Tests of counts_nests.py and operand_sizes.py: every nest does the products that the flops count, on operands as they are stored."""

import pytest

from szilard.cost_model import kinds
from szilard.cost_model.counts_flops import flops
from szilard.cost_model.counts_nests import BUILDERS, nests
from szilard.cost_model.counts_traffic import traffic
from szilard.cost_model.operand_sizes import Unknown, einsum_sizes
from szilard.cost_model.tile_reuse import Product, Scores, Steps, Window

from .priced_nets import net_of


def one(kind, shapes, attributes=None, dtypes=None):
    """(nests, flops on matrix units, net) of one op that reads all of `shapes` but "y"."""
    net = net_of(shapes, [(kind, [name for name in shapes if name != "y"], ["y"], attributes or {})], dtypes=dtypes)
    op = net.ops["op0"]
    return nests(op, net), sum(n for key, n in flops(op, net).items() if key.endswith(".tensor")), net


def work(nest):
    """Flops of the products of a nest."""
    if isinstance(nest, Product):
        return 2 * nest.batch * nest.rows * nest.inner * nest.columns
    if isinstance(nest, Window):
        extent = nest.extent[0] * nest.extent[1] * nest.extent[2]
        return 2 * nest.images * nest.groups * nest.inputs * nest.outputs * nest.taps * extent
    return 2 * nest.batch * nest.rows * nest.keys * (nest.depth + nest.value_depth) * (0.5 if nest.causal else 1)


@pytest.mark.parametrize(
    ("a", "b", "y", "attributes", "sizes"),
    [
        ((7, 5), (5, 3), (7, 3), {}, (1, 7, 5, 3)),
        ((4, 2, 7, 5), (5, 3), (4, 2, 7, 3), {}, (1, 56, 5, 3)),
        ((2, 9, 7, 5), (2, 9, 5, 3), (2, 9, 7, 3), {}, (18, 7, 5, 3)),
        ((4, 9, 7, 5), (9, 5, 3), (4, 9, 7, 3), {}, (9, 28, 5, 3)),
        ((7, 5), (9, 5, 3), (9, 7, 3), {}, (1, 7, 5, 27)),
        ((7, 5), (3, 5), (7, 3), {"transpose_b": True}, (1, 7, 5, 3)),
        ((5, 7), (5, 3), (7, 3), {"transpose_a": True}, (1, 7, 5, 3)),
        ((5,), (5, 3), (3,), {}, (1, 1, 5, 3)),
        ((7, 5), (5,), (7,), {}, (1, 7, 5, 1)),
        ((5,), (5,), (), {}, (1, 1, 5, 1)),
    ],
)
def test_a_matmul_is_a_product(a, b, y, attributes, sizes):
    (nest,), tensor, _ = one("matmul", {"a": a, "b": b, "y": y}, attributes)
    assert nest == Product(*sizes, left=4.0, right=4.0, partial=4.0)
    assert work(nest) == tensor


def test_operands_have_the_size_they_are_stored_in_and_partial_sums_32_bits():
    shapes = {"a": (7, 64), "b": (64, 3), "y": (7, 3)}
    (half,), *_ = one("matmul", shapes, dtypes=dict.fromkeys("aby", "float16"))
    assert (half.left, half.right, half.partial) == (2, 2, 4)
    (integer,), *_ = one("matmul_integer", shapes, dtypes={"a": "uint8", "b": "int8", "y": "int32"})
    assert (integer.left, integer.right, integer.partial) == (1, 1, 4)
    (double,), *_ = one("matmul", shapes, dtypes=dict.fromkeys("aby", "float64"))
    assert double.partial == 8
    packed = {"a": (2, 7, 64), "b": (3, 2, 16), "s": (6,), "y": (2, 7, 3)}
    (narrow,), *_ = one("matmul_nbits", packed, {"accuracy_level": 4}, {"b": "uint8"})
    assert narrow == Product(1, 14, 64, 3, 4.0, 0.5, 4.0)
    assert work(narrow) == 2 * 14 * 64 * 3


@pytest.mark.parametrize(
    ("x", "w", "y", "attributes", "extent", "kernel", "step"),
    [
        ((2, 6, 9, 8), (9, 6, 3, 2), (2, 9, 7, 7), {}, (7, 1, 7), (3, 1, 2), (1, 1, 1)),
        ((2, 6, 9, 9), (9, 2, 3, 3), (2, 9, 4, 4), {"groups": 3, "strides": [2, 2]}, (4, 1, 4), (3, 1, 3), (2, 1, 2)),
        ((2, 6, 9, 9), (6, 1, 3, 3), (2, 6, 5, 5), {"groups": 6, "dilations": [2, 2]}, (5, 1, 5), (5, 1, 5), (1, 1, 1)),
        ((2, 6, 9, 9), (4, 6, 1, 1), (2, 4, 3, 3), {"strides": [3, 3]}, (3, 1, 3), (1, 1, 1), (1, 1, 1)),
        ((2, 6, 20), (9, 6, 4), (2, 9, 17), {}, (1, 1, 17), (1, 1, 4), (1, 1, 1)),
        ((6, 20), (9, 6, 4), (9, 17), {}, (1, 1, 17), (1, 1, 4), (1, 1, 1)),
        ((1, 3, 8, 9, 9), (5, 3, 3, 3, 3), (1, 5, 6, 7, 7), {}, (6, 7, 7), (3, 3, 3), (1, 1, 1)),
    ],
)
def test_a_convolution_is_a_window(x, w, y, attributes, extent, kernel, step):
    (nest,), tensor, net = one("conv", {"x": x, "w": w, "y": y}, attributes)
    assert (nest.extent, nest.kernel, nest.step) == (extent, kernel, step)
    assert work(nest) == tensor
    assert nest.read == traffic(net.ops["op0"], net).reads["x"]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_the_product_of_its_pixels(groups):
    shapes = {"x": (2, 6, 4, 5), "w": (6, 8 // groups, 3, 3), "y": (2, 8, 6, 7)}
    (nest,), tensor, _ = one("conv", shapes, {"transposed": True, "groups": groups})
    assert nest == Product(groups, 40, 6 // groups, 72 // groups, 4.0, 4.0, 4.0)
    assert work(nest) == tensor


def test_heads_that_share_keys_are_rows_of_one():
    shapes = {"q": (2, 8, 7, 16), "k": (2, 2, 9, 16), "v": (2, 2, 9, 12), "y": (2, 8, 7, 12)}
    (nest,), tensor, _ = one("attention", shapes)
    assert nest == Scores(4, 28, 9, 16, 12, 4.0, 4.0, 4.0)
    assert work(nest) == tensor
    flat = {"q": (2, 7, 128), "k": (2, 9, 32), "v": (2, 9, 24), "y": (2, 7, 96)}
    (other,), tensor, _ = one("attention", flat, {"heads": 8, "kv_heads": 2, "is_causal": True})
    assert other == Scores(4, 28, 9, 16, 12, 4.0, 4.0, 4.0, causal=True)
    assert work(other) == tensor


def test_packed_attention_is_a_projection_and_attention():
    found, tensor, _ = one("fused_attention", {"x": (2, 9, 32), "w": (32, 96), "y": (2, 9, 32)}, {"num_heads": 4})
    assert found == (Product(1, 18, 32, 96, 4.0, 4.0, 4.0), Scores(8, 9, 9, 8, 8, 4.0, 4.0, 4.0))
    assert sum(map(work, found)) == tensor


@pytest.mark.parametrize(
    ("equation", "a", "b", "y", "sizes"),
    [
        ("bmk,bkn->bmn", (4, 7, 5), (4, 5, 3), (4, 7, 3), (4, 7, 5, 3)),
        ("bhnd,bhsd->bhns", (2, 3, 7, 5), (2, 3, 9, 5), (2, 3, 7, 9), (6, 7, 5, 9)),
        ("...k,kn->...n", (2, 7, 5), (5, 3), (2, 7, 3), (1, 14, 5, 3)),
        ("mk,kn", (7, 5), (5, 3), (7, 3), (1, 7, 5, 3)),
        ("...mk, ...kn", (4, 7, 5), (4, 5, 3), (4, 7, 3), (4, 7, 5, 3)),
    ],
)
def test_an_einsum_of_two_is_a_product(equation, a, b, y, sizes):
    (nest,), tensor, _ = one("einsum", {"a": a, "b": b, "y": y}, {"equation": equation})
    assert nest == Product(*sizes, left=4.0, right=4.0, partial=4.0)
    assert work(nest) == tensor


def test_an_einsum_of_one_or_three_is_none():
    assert one("einsum", {"a": (7, 5), "y": (5, 7)}, {"equation": "ij->ji"})[0] == ()
    assert one("einsum", {"a": (7, 5), "b": (5, 3), "c": (3, 2), "y": (7, 2)}, {"equation": "ij,jk,kl->il"})[0] == ()


def test_the_result_of_an_einsum_without_an_arrow():
    net = net_of({"a": (2, 7, 5), "b": (5, 3), "y": (2, 3, 7)}, [("einsum", ["a", "b"], ["y"], {"equation": "...nk,kc"})])
    found = einsum_sizes(net.ops["op0"], net)
    assert found.operands == (("...1", "n", "k"), ("k", "c"))
    assert found.result == ("...1", "c", "n")


def test_recurrent_weights_are_needed_in_every_step():
    onnx = {"x": (9, 2, 5), "w": (2, 28, 5), "r": (2, 28, 7), "y": (9, 2, 2, 7)}
    found, tensor, _ = one("lstm", onnx)
    assert found == (Product(1, 18, 5, 28, 4.0, 4.0, 4.0), Steps(4.0 * 28 * 7, 9)) * 2
    assert sum(work(nest) for nest in found if isinstance(nest, Product)) < tensor
    aten = {"x": (2, 9, 5), "wi": (28, 5), "wh": (28, 7), "bi": (28,), "bh": (28,), "y": (2, 9, 7)}
    assert one("lstm", aten, {"layout": 1})[0] == (Product(1, 18, 5, 28, 4.0, 4.0, 4.0), Steps(4.0 * 28 * 7, 9))


def test_other_kinds_and_empty_tensors_have_none():
    shapes = {"a": (2, 4, 8), "b": (2, 4, 8), "y": (2, 4, 8)}
    for kind in kinds.KINDS - kinds.CONTROL - BUILDERS.keys():
        net = net_of(shapes, [(kind, ["a", "b"], ["y"])])
        assert nests(net.ops["op0"], net) == ()
    assert one("matmul", {"a": (0, 5), "b": (5, 3), "y": (0, 3)})[0] == ()


@pytest.mark.parametrize(
    ("shapes", "dtypes"),
    [
        ({"a": None, "b": (5, 3), "y": (7, 3)}, {}),
        ({"a": (7, 5), "b": (5, 3), "y": (7, 3)}, {"b": "string"}),
        ({"a": (7, 5), "y": (7, 3)}, {}),
    ],
)
def test_what_is_missing_is_said(shapes, dtypes):
    net = net_of(shapes, [("matmul", [name for name in shapes if name != "y"], ["y"])], dtypes=dtypes)
    with pytest.raises(Unknown):
        nests(net.ops["op0"], net)
