"""Lookups of rows: large tables that nothing else reads, and a sentence for each of the others."""

import numpy as np
import pytest

from szilard.cost_model.counts import count
from szilard.passes.find_embedding import find_embedding

from .nets import NetBuilder

ROWS, WIDTH = 4000, 96


def lookup(net: NetBuilder, rows: int = ROWS, width: int = WIDTH):
    table, indices = net.weight("w", rows, width), net.input("i", 4, dtype="int64")
    return table, net.op("embedding", table, indices, shape=(4, width), dtype="float32")


def test_a_large_table_is_a_site():
    net = NetBuilder()
    table, y = lookup(net)
    end = net.op("neg", y, shape=(4, WIDTH))
    (site,), misses = find_embedding(net.net(end))
    assert misses == ()
    assert (site.table, site.indices, site.output) == (table, "i", y)
    assert (site.rows, site.width, site.count, site.dtype) == (ROWS, WIDTH, 4, "float32")


def tied(net):
    table, y = lookup(net)
    return net.matmul(y, net.transpose(table, 1, 0))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (tied, "shares its table with"),
        (lambda net: net.op("neg", lookup(net, 9, 6)[1], shape=(4, 6)), "table of 9 x 6, which stays in a cache"),
        (lambda net: lookup(net)[1], "is an output of the model"),
    ],
)
def test_what_stays_as_it_is_says_why(build, words):
    net = NetBuilder()
    sites, (miss,) = find_embedding(net.net(build(net)))
    assert sites == ()
    assert words in miss.reason
    assert miss.reason.endswith(".")


def test_codes_and_scales_are_read_row_by_row_and_turned_into_floats():
    net = NetBuilder()
    codes = net.constant("codes", np.zeros((ROWS, WIDTH), np.uint8))
    scale = net.constant("scale", np.zeros((ROWS, 1), np.float32))
    y = net.op("embedding", codes, net.input("i", 4, dtype="int64"), scale, shape=(4, WIDTH))
    built = net.net(net.op("neg", y, shape=(4, WIDTH)))
    found = count(built.producer(y), built)
    assert found.bytes == 4 * (WIDTH + 4) + 4 * 8 + 4 * WIDTH * 4
    assert found.flops == {"float32": 2 * 4 * WIDTH}
    net = NetBuilder()
    _, y = lookup(net)
    built = net.net(net.op("neg", y, shape=(4, WIDTH)))
    found = count(built.producer(y), built)
    assert (found.bytes, found.flops) == (4 * WIDTH * 4 + 4 * 8 + 4 * WIDTH * 4, {})
