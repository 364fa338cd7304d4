"""Products of many rows by weights of few bits, which are first expanded to a copy in 16 bits: bytes, kernels and price."""

import pytest

from szilard.cost_model.counts import count
from szilard.cost_model.device import load_device
from szilard.cost_model.price import price_op
from szilard.cost_model.weight_copy import MOST_ROWS, copied_bytes

from .priced_nets import net_of


def product(rows, dtype="float16", attributes=None, features=640, columns=320):
    """rows x features by 4-bit weights in blocks of 64."""
    blocks = features // 64
    shapes = {"a": (1, rows, features), "b": (columns, blocks, 32), "s": (columns, blocks), "y": (1, rows, columns)}
    dtypes = {**dict.fromkeys("asy", dtype), "b": "uint8"}
    net = net_of(shapes, [("matmul_nbits", ["a", "b", "s"], ["y"], attributes or {"bits": 4})], ["b", "s"], dtypes=dtypes)
    return net.ops["op0"], net


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_many_rows_write_the_weights_and_read_them_again(dtype):
    few, many = (count(*product(rows, dtype)) for rows in (MOST_ROWS, MOST_ROWS + 1))
    row = 2 * (640 + 320)
    assert few.bytes == MOST_ROWS * row + 320 * 10 * (32 + 2)
    assert many.bytes - few.bytes == row + 2 * 2 * 640 * 320
    assert (few.launches, many.launches) == (1, 2)
    assert few.nests[0].right == 0.5
    assert many.nests[0].right == 2.0
    assert few.flops == {f"{dtype}.tensor": 2 * MOST_ROWS * 640 * 320, dtype: 2 * 640 * 320}


@pytest.mark.parametrize(
    "attributes", [{"bits": 4, "accuracy_level": 4}, {"bits": 8, "computed_in": "float8"}, {"bits": 4, "row_tile": 64}]
)
def test_kernels_that_multiply_codes_or_expand_tiles_make_no_copy(attributes):
    assert copied_bytes(*product(100, attributes=attributes)) == 0


def test_inputs_of_32_bits_make_no_copy():
    assert copied_bytes(*product(100, "float32")) == 0
    assert copied_bytes(*product(100)) == 2 * 640 * 320


def test_a_copy_that_the_cache_holds_does_not_reach_memory():
    device = load_device("h200")
    small, large = (price_op(*product(100, features=n, columns=n), device).bytes_by_level["memory"] for n in (2048, 8192))
    assert small < 2 * 2048 * 2048
    assert large > 2 * 2 * 8192 * 8192


def test_one_row_reads_a_quarter_of_the_weights_of_float16():
    shapes = {"a": (1, 4096), "b": (4096, 4096), "y": (1, 4096)}
    net = net_of(shapes, [("matmul", ["a", "b"], ["y"])], ["b"], dtypes=dict.fromkeys("aby", "float16"))
    device = load_device("h200")
    half = price_op(net.ops["op0"], net, device)
    narrow = price_op(*product(1, features=4096, columns=4096), device)
    assert narrow.terms["memory"] == pytest.approx(half.terms["memory"] * (0.25 + 2 / 64 / 2), rel=0.01)
    assert narrow.joules < 0.6 * half.joules
